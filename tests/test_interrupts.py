"""Ctrl-C at any moment of anything: it stops, nothing goes on, nothing is lost, and all goes on.

Whoever works in a notebook interrupts a save or a restore, and then saves again.
"""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

import milepost
from milepost import Checkpoint, CheckpointManager, KeepLast, collector
from milepost.record import CHUNK_BYTES
from milepost.storage.local import LocalStorage
from milepost.store import Store, prune
from tests.interrupts import Interrupt

T = TypeVar("T")
# Where threads are handed work, and waited for: these are tried each time, all in the sweep.
DELICATE = (
    "checkpoint/background.py",
    "checkpoint/restore.py",
    "collector.py",
    "staging.py",
    "store/prune.py",
    "store/verify.py",
    "store/write.py",
    "undoing.py",
    "workers.py",
)
every_moment = pytest.mark.parametrize(
    "places", [DELICATE, pytest.param("", marks=pytest.mark.slow)], ids=["some", "all"]
)
pytestmark = [
    # Of a file that was about to be closed when the interrupt came.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.timeout(900),  # for the sweep
]


class Loader:
    """A data loader of a user's, whose state is changed at once."""

    def __init__(self, position: int) -> None:
        self.position = position

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class Run:
    """A program's objects, all of which hold one number, and a store."""

    def __init__(self, folder: Path, number: int, size: int = 5000, steps: int = 0) -> None:
        self.folder = folder
        self.state: dict[str, Any] = {
            "array": np.full(size, number, np.float32),
            "small": np.full(3, number, np.int64),
            "list": [number, {number}],
            "log": [number] * number,
            "number": number,
        }
        self.loader = Loader(number)
        self.checkpoint = Checkpoint(first=Loader(number), state=self.state, loader=self.loader)
        for step in range(1, steps + 1):
            self.set(step)
            self.checkpoint.save(folder)

    def set(self, number: int) -> None:
        self.state["array"][...] = self.state["small"][...] = number
        self.state["list"] = [number, {number}]
        self.state["log"] = [number] * number
        self.state["number"] = self.loader.position = number
        self.checkpoint.first.position = number

    def numbers(self) -> set[int]:
        state = self.state
        found = {*np.unique(state["array"]).tolist(), *state["small"].tolist(), *state["list"][1]}
        found |= {state["list"][0], *state["log"], len(state["log"]), state["number"]}
        return found | {self.loader.position, self.checkpoint.first.position}

    def steps(self) -> list[int]:
        storage = LocalStorage(self.folder)
        return [] if Store.is_absent(storage) else Store.open(storage).steps

    def check(self) -> None:
        """Every step is whole; then one more is saved, and restored by another program."""
        steps = self.steps()
        assert not steps or list(milepost.verify(self.folder)) == []
        for step in {*steps[:1], *steps[-1:]}:
            other = Run(self.folder, 0, len(self.state["array"]))
            other.checkpoint.restore(self.folder, step)
            assert other.numbers() == {step}
        following = max(steps, default=0) + 1
        self.set(following)
        assert self.checkpoint.save(self.folder).step == following
        other = Run(self.folder, 0, len(self.state["array"]))
        other.checkpoint.restore(self.folder)
        assert other.numbers() == {following}


def saves(run: Run) -> None:
    run.checkpoint.save(run.folder)


def saves_anew(run: Run) -> None:
    run.checkpoint.save(run.folder, 3, overwrite=True)


def saves_in_the_background(run: Run) -> None:
    run.checkpoint.save(run.folder, background=True)
    run.checkpoint.wait()


def saves_in_little_memory(run: Run) -> None:
    run.checkpoint.save(run.folder, background=True, max_memory=1)
    run.checkpoint.wait()


def restores(run: Run) -> None:
    run.checkpoint.restore(run.folder, 1)


def manages(run: Run) -> None:
    with CheckpointManager(run.checkpoint, run.folder, keep=KeepLast(2), background=True) as saved:
        saved.save()


def compacts(run: Run) -> None:
    milepost.compact(run.folder)


def prunes(run: Run) -> None:
    prune(Store.open(LocalStorage(run.folder)), lambda store: [2])


def verifies(run: Run) -> None:
    assert list(milepost.verify(run.folder)) == []


@every_moment
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize(
    "action", [saves, saves_in_the_background, manages], ids=lambda action: action.__name__
)
def test_a_save(tmp_path: Path, action, steps, places):
    for run in interrupted(tmp_path, action, places, steps=steps, value=steps + 1):
        assert run.steps()[-1:] in ([], [steps], [steps + 1])
        assert run.numbers() == {steps + 1}


@every_moment
@pytest.mark.parametrize(
    "action", [saves_anew, restores, compacts, prunes, verifies], ids=lambda a: a.__name__
)
def test_what_is_done_with_a_store(tmp_path: Path, action, places):
    for run in interrupted(tmp_path, action, places, steps=3):
        assert run.numbers() == {3} or (action is restores and run.numbers() == {1})


@pytest.mark.slow
@pytest.mark.parametrize("action", [saves, saves_in_little_memory], ids=lambda a: a.__name__)
def test_a_save_of_several_buffers(tmp_path: Path, action):
    size = CHUNK_BYTES  # of four bytes each
    for run in interrupted(tmp_path, action, DELICATE, size=size, steps=1, value=2):
        assert run.numbers() == {2}


@every_moment
def test_a_model(tmp_path: Path, places):
    import torch

    path = tmp_path / "model.safetensors"

    def make(number: int) -> torch.nn.Module:
        model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout())
        with torch.no_grad():
            model[0].weight.fill_(number)
        return model

    def loaded() -> float:
        return float(milepost.load_model(path)[0].weight[0, 0].detach())

    def save(model: torch.nn.Module) -> None:
        milepost.save_model(model, path, example=torch.ones(2, 3))

    def prepare() -> torch.nn.Module:
        save(make(1))  # which removes what an interrupt has left beside it
        assert os.listdir(tmp_path) == [path.name]
        torch.manual_seed(5)
        return make(2)

    def is_as_before(model: torch.nn.Module) -> bool:
        return all(part.training for part in model.modules()) and torch.initial_seed() == 5

    for model in moments(prepare, save, places):
        nothing_goes_on()
        assert is_as_before(model)
        assert loaded() in (1, 2)
    for model in moments(prepare, lambda model: milepost.load_model(path, replay=True), places):
        nothing_goes_on()
        assert is_as_before(model)


def test_each_moment_is_one(tmp_path: Path):
    """What the tests above rely on."""
    run = Run(tmp_path, 1)
    interrupt = Interrupt(at=100)
    assert interrupt.during(lambda: saves(run))
    assert len(interrupt.moments) == 101
    assert interrupt.moments[0].startswith("checkpoint/checkpoint.py:")
    assert not Interrupt(at=10**9).during(lambda: saves(run))


def test_the_collector_is_on_again():
    def pause(_: None) -> None:
        with collector.paused(), collector.paused():
            assert not gc.isenabled()

    for _ in moments(lambda: None, pause, ""):
        assert gc.isenabled()
        pause(None)
        assert gc.isenabled()


def interrupted(
    folder: Path,
    action: Callable[[Run], None],
    places: str | tuple[str, ...],
    value: int = 3,
    **made: int,
) -> Iterator[Run]:
    """A run for each moment, in which the action was interrupted then; checked afterwards."""
    folders = (folder / str(number) for number in itertools.count())

    def prepare() -> Run:
        run = Run(next(folders), 0, **made)
        run.set(value)
        return run

    for run in moments(prepare, action, places):
        run.checkpoint.wait()
        nothing_goes_on()
        if run.folder.exists():
            with LocalStorage(run.folder).lock(exclusive=True, wait=False) as is_free:
                assert is_free
            assert list((run.folder / "partial").glob("*")) == []
        yield run
        run.check()
        shutil.rmtree(run.folder)


def moments(
    prepare: Callable[[], T], action: Callable[[T], object], places: str | tuple[str, ...]
) -> Iterator[T]:
    """What was prepared for each moment, once the action was interrupted then."""
    action(prepare())  # what happens only once in a process
    counting = Interrupt()
    subject = prepare()
    assert not counting.during(lambda: action(subject))
    chosen = [at for at in counting.places() if counting.moments[at].startswith(places)]
    assert chosen
    for at in chosen:
        subject = prepare()
        interrupt = Interrupt(at)
        interrupt.during(lambda subject=subject: action(subject))
        print("interrupted at", interrupt.moments[-1])  # shown if something is wrong
        yield subject


def nothing_goes_on() -> None:
    assert gc.isenabled()
    end = time.monotonic() + 10
    while names := [t.name for t in threading.enumerate() if t.name.startswith("milepost")]:
        assert time.monotonic() < end, names
        time.sleep(0.001)


def of_torch() -> Any:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters(), foreach=True)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)

    def step() -> None:
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()
        schedule.step()

    return step, Checkpoint(model=model, optimizer=optimizer, schedule=schedule)


def of_keras() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dropout(0.5)])
    model.compile("adam", "mse")
    inputs = np.ones((4, 3), np.float32)
    return lambda: model.train_on_batch(inputs, inputs[:, :2]), Checkpoint(model=model)


def of_flax() -> Any:
    import jax.numpy as jnp
    import optax
    from flax import nnx

    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)

    def step() -> None:
        gradients = nnx.grad(lambda model: (model(jnp.ones((4, 3))) ** 2).sum())(model)
        optimizer.update(model, gradients)

    return step, Checkpoint(model=model, optimizer=optimizer)


@every_moment
@pytest.mark.parametrize(
    "make",
    [of_torch, *(pytest.param(make, marks=pytest.mark.slow) for make in (of_keras, of_flax))],
    ids=lambda make: make.__name__,
)
def test_a_restore_of_a_framework(tmp_path: Path, make, places):
    step, checkpoint = make()

    def values() -> list[str]:
        """The digests of all leaves."""
        shutil.rmtree(tmp_path / "now", ignore_errors=True)
        checkpoint.save(tmp_path / "now")
        with milepost.open(tmp_path / "now").latest as snapshot:
            return [f"{name}: {np.asarray(snapshot[name]).tolist()}" for name in snapshot]

    step()
    checkpoint.save(tmp_path / "run")
    before = values()
    step()
    after = values()
    checkpoint.save(tmp_path / "run")

    def prepare() -> None:
        checkpoint.restore(tmp_path / "run", 2)
        assert values() == after

    assert before != after
    for _ in moments(prepare, lambda _: checkpoint.restore(tmp_path / "run", 1), places):
        nothing_goes_on()
        assert values() in (before, after)
