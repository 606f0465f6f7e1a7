"""Promise 1: the power may fail between any two system calls.

Every committed checkpoint is whole afterwards, the one being written is absent or whole, and
the next save works and leaves no leftovers behind.
"""

from __future__ import annotations

import contextlib

import pytest

from milepost.storage.faults import PowerFailure, PowerLossDisk
from milepost.storage.local import LocalStorage
from milepost.store import Store, Writer, prune, verify_store

from .conftest import check, make_state

pytestmark = pytest.mark.usefixtures("small_buffers")

LOSSES = 12  # possible disks drawn for every point of failure


def _saved(disk: PowerLossDisk, *steps: int) -> Writer:
    writer = Writer(Store.open_or_create(LocalStorage("/runs/store", disk)))
    for step in steps:
        writer.save(make_state(step), step)
    return writer


def _reopened(disk: PowerLossDisk) -> Store:
    return Store.open(LocalStorage("/runs/store", disk))


def _check_all(store: Store, committed: list[int], maybe: int | None) -> None:
    steps = store.steps
    assert [step for step in steps if step != maybe] == committed
    for step in steps:
        with store[step] as checkpoint:
            check(checkpoint, make_state(step))
    assert list(verify_store(store)) == []


def _failing(committed: list[int], at: int) -> PowerLossDisk:
    """A disk with these checkpoints, whose power fails at the change `at` of the next save."""
    disk = PowerLossDisk()
    writer = _saved(disk, *committed)
    disk.fail_at = disk.changes + at
    with pytest.raises(PowerFailure):
        writer.save(make_state(99), 99)
    return disk


def _changes_of_a_save(committed: list[int]) -> int:
    disk = PowerLossDisk()
    writer = _saved(disk, *committed)
    before = disk.changes
    writer.save(make_state(99), 99)
    return disk.changes - before


@pytest.mark.parametrize("committed", [[1], [1, 2]])
def test_a_save_is_all_or_nothing(committed):
    outcomes = set()
    for at in range(1, _changes_of_a_save(committed) + 1):
        broken = _failing(committed, at)
        for seed in range(LOSSES):
            disk = broken.after_loss(seed)
            store = _reopened(disk)
            _check_all(store, committed, maybe=99)
            outcomes.add(99 in store)
            # The next save works, and removes what the dead one left.
            writer = Writer(store)
            writer.save(make_state(100), 100)
            _check_all(_reopened(disk), [*committed, 100], maybe=99)
            assert disk.list("/runs/store/partial") == []
    assert outcomes == {True, False}


def test_what_a_save_has_returned_stays():
    disk = PowerLossDisk()
    _saved(disk, 1, 2)
    for seed in range(10 * LOSSES):
        _check_all(_reopened(disk.after_loss(seed)), [1, 2], maybe=None)


def test_a_first_save_into_nothing_is_all_or_nothing():
    disk = PowerLossDisk()
    _saved(disk, 99)
    for at in range(1, disk.changes + 1):
        broken = PowerLossDisk(fail_at=at)
        with pytest.raises(PowerFailure):
            _saved(broken, 99)
        for seed in range(LOSSES):
            after = broken.after_loss(seed)
            _saved(after, 100)  # whatever is left, the next save works
            _check_all(_reopened(after), [100], maybe=99)


def test_an_overwrite_leaves_the_old_or_the_new():
    disk = PowerLossDisk()
    writer = _saved(disk, 1)
    before = disk.changes
    writer.save(make_state(2), 1, overwrite=True)
    outcomes = set()
    for at in range(1, disk.changes - before + 1):
        broken = PowerLossDisk()
        writer = _saved(broken, 1)
        broken.fail_at = broken.changes + at
        with pytest.raises(PowerFailure):
            writer.save(make_state(2), 1, overwrite=True)
        for seed in range(LOSSES):
            with _reopened(broken.after_loss(seed))[1] as checkpoint:
                found = checkpoint["progress/epoch"]
                check(checkpoint, make_state(found))
                outcomes.add(found)
    assert outcomes == {1, 2}


def test_pruning_loses_nothing_that_is_kept():
    def pruned(disk: PowerLossDisk, fail_at: int | None = None) -> int:
        store = _saved(disk, 1, 2, 3, 4).store
        before = disk.changes
        disk.fail_at = None if fail_at is None else before + fail_at
        prune(store, lambda _: {2, 4})
        return disk.changes - before

    changes = pruned(PowerLossDisk())
    for at in range(1, changes + 2):  # the last: after it has returned
        broken = PowerLossDisk()
        with pytest.raises(PowerFailure) if at <= changes else contextlib.nullcontext():
            pruned(broken, at)
        for seed in range(LOSSES):
            disk = broken.after_loss(seed)
            store = _reopened(disk)
            for step in (2, 4):
                with store[step] as checkpoint:
                    check(checkpoint, make_state(step))
            # What is still named of the others is whole as well, and can go the next time.
            assert list(verify_store(store)) == []
            prune(store, lambda _: {2, 4})
            assert store.steps == [2, 4]
