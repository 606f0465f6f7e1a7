"""Background saves: what was there when `save` returned is what is saved; no error is lost."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import milepost
from milepost import BackgroundSave, Checkpoint, CheckpointManager, KeepLast, errors
from milepost.storage.faults import FaultyFileSystem, disk_full
from milepost.storage.local import LocalStorage
from milepost.store import Store, verify_store
from tests.interrupts import ctrl_c

SIZE = 5_000_000  # elements: more than one chunk


class Gate(FaultyFileSystem):
    """A disk that writes nothing before it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()

    def write_at(self, handle: int, offset: int, data) -> None:
        assert self.opened.wait(60)
        super().write_at(handle, offset, data)


def saved(path: Path, name: str, step: int | str = "latest") -> np.ndarray:
    with milepost.open(path).open_step(step) as snapshot:
        return np.asarray(snapshot[name])


def test_what_is_changed_after_the_save_returned_is_not_in_it(tmp_path: Path):
    disk = Gate()
    storage = LocalStorage(tmp_path, disk)
    array = np.arange(SIZE, dtype=np.float32)
    plain = {"epoch": 1, "losses": [0.5]}
    save = Checkpoint(array=array, plain=plain).save(storage, background=True)
    assert not save.done
    array[:] = -1
    plain["epoch"] = 2
    plain["losses"].append(0.25)
    disk.opened.set()
    report = save.wait()
    assert (save.step, report.step, save.done) == (1, 1, True)
    assert report.written == array.nbytes
    np.testing.assert_array_equal(saved(tmp_path, "array"), np.arange(SIZE, dtype=np.float32))
    assert milepost.open(tmp_path).latest["plain/epoch"] == 1
    assert "plain/losses/1" not in milepost.open(tmp_path).latest


class TestIsolation:
    """In place or not, on every framework: an update after the save is not in the file."""

    def check(self, tmp_path: Path, model, update, names: list[str] | None = None) -> None:
        disk = Gate()
        checkpoint = Checkpoint(model=model)
        checkpoint.save(tmp_path / "expected")
        save = checkpoint.save(LocalStorage(tmp_path / "store", disk), background=True)
        update(checkpoint)
        update(checkpoint)
        disk.opened.set()
        save.wait()
        checkpoint.save(tmp_path / "changed")
        expected = milepost.open(tmp_path / "expected").latest
        changed = milepost.open(tmp_path / "changed").latest
        found = milepost.open(tmp_path / "store").latest
        assert list(found) == list(expected)
        for name in found:
            np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(expected[name]))
        assert any(not np.array_equal(np.asarray(found[n]), np.asarray(changed[n])) for n in found)
        assert list(verify_store(milepost.open(tmp_path / "store"))) == []

    def test_torch(self, tmp_path: Path):
        import torch

        model = torch.nn.Sequential(torch.nn.Linear(1024, 1024), torch.nn.BatchNorm1d(1024))
        optimizer = torch.optim.Adam(model.parameters(), fused=True)

        def update(checkpoint: Checkpoint) -> None:
            model(torch.randn(8, 1024)).square().sum().backward()
            optimizer.step()
            model[0].weight.data.mul_(1.01)  # which no version counter notices

        update(Checkpoint(model=model))
        self.check(tmp_path, {"model": model, "optimizer": optimizer}, update)

    def test_jax_whose_buffers_are_donated(self, tmp_path: Path):
        import jax

        # More than the few buffers hold: most is still to be read when it is donated.
        params = {str(n): jax.numpy.arange(4_000_000.0) + n for n in range(8)}
        step = jax.jit(lambda tree: jax.tree.map(lambda a: a * 2 + 1, tree), donate_argnums=0)

        def update(checkpoint: Checkpoint) -> None:
            checkpoint.model = jax.block_until_ready(step(checkpoint.model))

        self.check(tmp_path, params, update)

    def test_tensorflow(self, tmp_path: Path):
        import tensorflow as tf

        variable = tf.Variable(tf.random.normal([1000, 1000]))
        self.check(tmp_path, {"v": variable}, lambda _: variable.assign_add(variable * 0.1 + 1))

    def test_keras(self, tmp_path: Path):
        import keras

        model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(512)])
        model.compile("adam", "mse")
        x, y = np.ones((8, 64)), np.zeros((8, 512))
        model.train_on_batch(x, y)
        self.check(tmp_path, model, lambda _: model.train_on_batch(x, y))


def test_one_is_written_at_a_time_and_the_next_waits(tmp_path: Path):
    disk = Gate()
    array = np.zeros(SIZE, np.float32)
    checkpoint = Checkpoint(array=array)
    storage = LocalStorage(tmp_path, disk)
    first = checkpoint.save(storage, background=True)
    array[:] = 2
    threading.Timer(0.3, disk.opened.set).start()
    began = time.monotonic()
    second = checkpoint.save(storage, background=True)
    assert first.done
    assert time.monotonic() - began > 0.2
    assert (first.step, second.step) == (1, 2)
    second.wait()
    assert saved(tmp_path, "array", 1)[0] == 0
    assert saved(tmp_path, "array", 2)[0] == 2


@pytest.mark.parametrize("how", ["wait", "checkpoint.wait", "save", "background", "restore"])
def test_an_error_is_raised_once_at_the_next_occasion(tmp_path: Path, how: str):
    disk = FaultyFileSystem(fault=disk_full)
    storage = LocalStorage(tmp_path, disk)
    array = np.zeros(SIZE, np.float32)
    checkpoint = Checkpoint(array=array)
    checkpoint.save(storage)
    array[:] = 1
    disk.fail_after(2)
    failed = checkpoint.save(storage, background=True)
    occasions = {
        "wait": failed.wait,
        "checkpoint.wait": checkpoint.wait,
        "save": lambda: checkpoint.save(storage),
        "background": lambda: checkpoint.save(storage, background=True),
        "restore": lambda: checkpoint.restore(storage),
    }
    with pytest.raises(errors.StorageError, match="full"):
        occasions[how]()
    assert "failed" in repr(failed)
    assert array[0] == 1
    # And then all is well again, with the memory that the failed one had.
    report = checkpoint.save(storage)
    assert report.step == 2
    assert saved(tmp_path, "array")[0] == 1
    assert list(verify_store(Store.open(storage))) == []


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("name", ["save", "copy", "digest", "write"])
def test_a_system_that_allows_no_more_threads(tmp_path: Path, monkeypatch, name, background):
    import jax.numpy as jnp

    checkpoint = Checkpoint(constant=jnp.arange(SIZE))
    start, kinds = threading.Thread.start, {f"milepost-{name}"}

    def refuse(thread: threading.Thread) -> None:
        if thread.name in kinds:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):  # noqa: PT012
        checkpoint.save(tmp_path, background=background)
        checkpoint.wait()
    kinds.clear()
    assert checkpoint.save(tmp_path).step == 1
    with LocalStorage(tmp_path).lock(exclusive=True, wait=False) as is_free:
        assert is_free


@pytest.mark.skipif(sys.platform == "win32", reason="signals are different there")
class TestCtrlC:
    """While a save waits for the disk, which takes some time more."""

    @pytest.fixture
    def disk(self) -> Gate:
        return Gate()

    def test_whoever_waits_can_wait_again(self, tmp_path: Path, disk: Gate):
        checkpoint = Checkpoint(array=np.ones(SIZE))
        save = checkpoint.save(LocalStorage(tmp_path, disk), background=True)
        for wait in (checkpoint.wait, save.wait):
            with pytest.raises(KeyboardInterrupt), ctrl_c(0.1):
                wait()
            assert not save.done
        threading.Timer(0.1, disk.opened.set).start()
        checkpoint.wait()
        assert save.done
        assert milepost.open(tmp_path).steps == [1]

    @pytest.mark.parametrize("times", [1, 2])
    def test_a_save_that_is_interrupted_goes_on_for_nobody(self, tmp_path: Path, disk: Gate, times):
        """Interrupted twice, it no longer waits for its threads; but whoever comes next does."""
        checkpoint = Checkpoint(array=np.arange(2 * SIZE))  # more than a save copies at once
        storage = LocalStorage(tmp_path, disk)
        opens = threading.Timer(0.4, disk.opened.set)
        opens.start()
        with pytest.raises(KeyboardInterrupt), ctrl_c(*[0.1, 0.2][:times]):
            checkpoint.save(storage)
        assert disk.opened.is_set() == (times == 1)
        with storage.lock(exclusive=True, wait=False) as is_alone:
            assert is_alone == (times == 1)
        checkpoint.wait()
        assert disk.opened.is_set()
        calls = len(disk.calls)
        time.sleep(0.1)
        assert len(disk.calls) == calls
        assert milepost.open(tmp_path).steps == []
        assert list((tmp_path / "partial").iterdir()) == list((tmp_path / "data").iterdir()) == []
        checkpoint.save(storage)
        np.testing.assert_array_equal(saved(tmp_path, "array"), np.arange(2 * SIZE))


def test_an_object_that_cannot_be_saved_is_an_error_at_once(tmp_path: Path):
    class Broken:
        dtype, shape = np.dtype(np.float32), (3,)

        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("the device is gone")

    from milepost.state import State
    from milepost.store import Writer

    writer = Writer(Store.open_or_create(LocalStorage(tmp_path)))
    state = State({"a": np.zeros(SIZE), "b": Broken()})
    with pytest.raises(RuntimeError, match="the device is gone"):
        writer.start(state, 1)
    assert writer.store.steps == []
    assert writer.save(State({"a": np.zeros(SIZE)}), 1).step == 1


def test_the_memory_that_it_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from milepost import staging

    most, out = 0, 0
    take, give = staging.Slots.take, staging.Slots.give

    def counted_take(self, stopped):
        nonlocal most, out
        slot = take(self, stopped)
        out += 1
        most = max(most, out)
        return slot

    def counted_give(self, slot):
        nonlocal out
        out -= 1
        give(self, slot)

    monkeypatch.setattr(staging.Slots, "take", counted_take)
    monkeypatch.setattr(staging.Slots, "give", counted_give)
    arrays = {str(n): np.random.default_rng(n).standard_normal(SIZE // 2) for n in range(6)}
    checkpoint = Checkpoint(arrays=arrays)
    checkpoint.save(tmp_path, background=True, max_memory=48 << 20).wait()
    assert most == 3
    for name, array in arrays.items():
        np.testing.assert_array_equal(saved(tmp_path, f"arrays/{name}"), array)
        np.negative(array, out=array)
    most = 0
    checkpoint.save(tmp_path, background=True, max_memory=1).wait()
    assert most == 1
    for name, array in arrays.items():
        np.testing.assert_array_equal(saved(tmp_path, f"arrays/{name}"), array)


PROGRAM = """
import sys
import numpy as np
from milepost import Checkpoint
from milepost.storage.faults import FaultyFileSystem, disk_full
from milepost.storage.local import LocalStorage

disk = FaultyFileSystem(fault=disk_full)
storage = LocalStorage(sys.argv[1], disk)
checkpoint = Checkpoint(a=np.arange(20_000_000.0))
checkpoint.save(storage)
checkpoint.a += 1
if sys.argv[2] == "fails":
    disk.fail_after(3)
checkpoint.save(storage, background=True)
"""


def test_the_end_of_the_program_waits_for_the_save(tmp_path: Path, run_program):
    finished = run_program(PROGRAM, str(tmp_path / "store"), "works")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert saved(tmp_path / "store", "a", 2)[7] == 8


def test_the_end_of_the_program_tells_of_one_that_failed(tmp_path: Path):
    import subprocess

    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "store"), "fails"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert "the background save of step 2 failed: cannot write" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert milepost.open(tmp_path / "store").steps == [1]


def test_a_manager_saves_and_prunes_in_the_background(tmp_path: Path):
    array = np.zeros(1000)
    checkpoint = Checkpoint(array=array)
    with CheckpointManager(
        checkpoint, tmp_path, keep=KeepLast(2), every_steps=2, background=True
    ) as manager:
        for step in range(1, 11):
            array += 1
            found = manager.save_if_due(step, metrics={"loss": 1 / step})
            assert isinstance(found, BackgroundSave) == (step % 2 == 0)
    assert milepost.open(tmp_path).steps == [8, 10]
    assert saved(tmp_path, "array", 8)[0] == 8
    assert len(list((tmp_path / "data").iterdir())) == 2


def test_a_manager_raises_at_its_end_what_the_last_save_failed_with(tmp_path: Path):
    disk = FaultyFileSystem(fault=disk_full)

    def run() -> None:
        checkpoint = Checkpoint(array=np.zeros(SIZE))
        with CheckpointManager(checkpoint, LocalStorage(tmp_path, disk), background=True) as m:
            m.save(1)
            m.wait()
            checkpoint.array += 1
            disk.fail_after(2)
            m.save(2)

    with pytest.raises(errors.StorageError, match="full"):
        run()
    assert milepost.open(tmp_path).steps == [1]
