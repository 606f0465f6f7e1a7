"""A crash at any point of a compaction loses nothing; called again, it goes on."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from milepost import errors
from milepost.storage.faults import (
    FaultyFileSystem,
    PowerFailure,
    PowerLossDisk,
    disk_full,
    input_output_error,
)
from milepost.storage.local import LocalStorage
from milepost.store import Compaction, Store, Writer, verify_store

from .conftest import check
from .runs import run_state

STEPS = [1, 2, 3]
LOSSES = 3  # possible disks drawn for every point of failure


def _saved(storage: LocalStorage) -> Store:
    writer = Writer(Store.open_or_create(storage))
    for step in STEPS:
        writer.save(run_state(step), step)
    return writer.store


def _check_all(store: Store) -> None:
    assert store.steps == STEPS
    for step in STEPS:
        with store[step] as checkpoint:
            check(checkpoint, run_state(step))
    assert list(verify_store(store)) == []


def _check_goes_on(store: Store) -> int:
    """Compact again, to the end; returns how many packs there are then."""
    Compaction(store).run()
    _check_all(store)
    needed = {pack.name for step in STEPS for pack in store.manifest(step).packs}
    assert {f"data/{name}" for name in store.storage.list("data")} == needed
    return len(needed)


def test_the_power_fails_between_any_two_calls():
    whole = PowerLossDisk()
    store = _saved(LocalStorage("/store", whole))
    before = whole.changes
    Compaction(store).run()
    packs = _check_goes_on(store)
    assert whole.changes - before > 20
    found = set()
    for at in range(1, whole.changes - before + 1):
        broken = PowerLossDisk()
        store = _saved(LocalStorage("/store", broken))
        broken.fail_at = broken.changes + at
        with contextlib.suppress(PowerFailure):
            Compaction(store, threads=1).run()
        for seed in range(LOSSES):
            disk = broken.after_loss(seed)
            store = Store.open(LocalStorage("/store", disk))
            _check_all(store)
            found.add(len(store.storage.list("data")))
            assert _check_goes_on(store) == packs
    assert len(found) > 1


@pytest.mark.parametrize("fault", [disk_full, input_output_error])
def test_whichever_call_fails_every_step_is_whole(tmp_path: Path, fault):
    def attempt(folder: Path, after: int | None) -> list[str]:
        filesystem = FaultyFileSystem(fault=fault)
        store = _saved(LocalStorage(folder, filesystem))
        before = len(filesystem.calls)
        if after is not None:
            filesystem.fail_after(after)
        Compaction(store, threads=1).run()
        return filesystem.calls[before:]

    calls = attempt(tmp_path / "whole", None)
    assert {"create", "write_at", "sync", "link", "rename", "unlink"} <= set(calls)
    for number in range(len(calls)):
        folder = tmp_path / str(number)
        try:
            attempt(folder, number)
        except errors.StorageError as error:
            assert str(folder) in str(error)  # noqa: PT017  it may also do without that call
        else:
            assert Compaction(Store.open(LocalStorage(folder))).run() == ()
        store = Store.open(LocalStorage(folder))
        _check_all(store)
        _check_goes_on(store)


# Forks for every point of failure: one import, many deaths.
PROGRAM = """
import os, sys
from tests.store.runs import run_state
from milepost.storage.faults import FaultyFileSystem, kill_process
from milepost.storage.local import LocalStorage
from milepost.store import Compaction, Store, Writer

for number in map(int, sys.argv[1:]):
    child = os.fork()
    if child == 0:
        filesystem = FaultyFileSystem(fault=kill_process)
        writer = Writer(Store.open_or_create(LocalStorage(f"store-{number}", filesystem)))
        for step in (1, 2, 3):
            writer.save(run_state(step), step)
        filesystem.fail_after(number)
        Compaction(writer.store).run()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(number, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_call(tmp_path: Path, run_program):
    filesystem = FaultyFileSystem()
    store = _saved(LocalStorage(tmp_path / "counted", filesystem))
    before = len(filesystem.calls)
    Compaction(store).run()
    numbers = list(range(0, len(filesystem.calls) - before, 2))
    root = Path(__file__).parents[2]
    finished = run_program(
        PROGRAM, *map(str, numbers), PYTHONPATH=f"{root}{os.pathsep}{root / 'src'}"
    )
    deaths = [line.split() for line in finished.stdout.splitlines()]
    assert [number for number, _ in deaths] == list(map(str, numbers))
    assert sum(signal == "9" for _, signal in deaths) > 0.9 * len(deaths)  # threads may reorder
    for number in numbers:
        store = Store.open(LocalStorage(tmp_path / f"store-{number}"))
        _check_all(store)
        Writer(store).save(run_state(4), 4, overwrite=True)  # the next writer clears up
        store.storage.delete(["checkpoints/00000000000000000004.json"])
        _check_goes_on(store)
