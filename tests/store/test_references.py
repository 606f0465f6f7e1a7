"""What manifests refer to is read once, and again if they were replaced."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from milepost import errors
from milepost.checkpoint.keep import KeepBest, KeepEvery, KeepLast
from milepost.storage.local import LocalStorage
from milepost.storage.memory import MemoryStorage
from milepost.store import Store, Writer, prune, verify_store
from milepost.store.references import References

from .conftest import check, make_state


class Counting(LocalStorage):
    """Notes which objects are opened, and whether the exclusive lock is held meanwhile."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.opened: list[str] = []
        self.opened_alone: list[str] = []
        self.alone = False
        self.before_lock = lambda: None

    def open(self, name):
        self.opened.append(name)
        if self.alone:
            self.opened_alone.append(name)
        return super().open(name)

    def lock(self, *, exclusive, wait=True):
        @contextlib.contextmanager
        def held():
            if exclusive:
                self.before_lock()
            with super(Counting, self).lock(exclusive=exclusive, wait=wait) as result:
                self.alone = exclusive and result
                try:
                    yield result
                finally:
                    self.alone = False

        return held()


def saved_by(folder: Path, *steps: int) -> Writer:
    writer = Writer(Store.open_or_create(LocalStorage(folder)))
    for step in steps:
        writer.save(make_state(step), step, {"loss": step})
    return writer


def saved(folder: Path, *steps: int) -> Store:
    return saved_by(folder, *steps).store


def manifests(names: list[str]) -> list[int]:
    return [int(Path(name).stem) for name in names if name.startswith("checkpoints/")]


def test_what_is_known_is_not_read_again(tmp_path: Path):
    saved(tmp_path, 1, 2, 3)
    store = Store.open(Counting(tmp_path))
    assert store.all_metrics() == {1: {"loss": 1}, 2: {"loss": 2}, 3: {"loss": 3}}
    assert manifests(store.storage.opened) == [1, 2, 3]
    saved(tmp_path, 4)
    assert store.all_metrics()[4] == {"loss": 4}
    assert manifests(store.storage.opened) == [1, 2, 3, 4]


def test_an_overwritten_step_is_noticed(tmp_path: Path):
    store = saved(tmp_path, 1, 2)
    assert store.all_metrics()[1] == {"loss": 1}
    other = Writer(Store.open(LocalStorage(tmp_path)))
    other.save(make_state(7), 1, {"loss": 7}, overwrite=True)
    assert store.all_metrics()[1] == {"loss": 7}
    prune(other.store, lambda _: [2])
    assert store.all_metrics() == {2: {"loss": 2}}


@pytest.mark.parametrize("make", [LocalStorage, lambda folder: MemoryStorage()])
def test_what_this_writer_commits_is_known_and_what_others_do_is_noticed(tmp_path: Path, make):
    storage = make(tmp_path)
    first = Writer(Store.open_or_create(storage))
    second = Writer(Store.open(storage))
    for step in (1, 2, 3):
        first.save(make_state(step), step, {"loss": step})
    known = first.store.references
    expected = {1: 1, 2: 2, 3: 3}
    actions = [
        (first, 9, 9, False),
        (first, 5, 5, False),  # before the newest
        (second, 4, 4, False),
        (first, 10, 10, False),
        (second, 10, 7, True),
        (first, 11, 11, False),
        (first, 1, 8, True),
        (first, 12, 12, False),
        (first, 13, 13, False),
    ]
    for writer, step, loss, overwrite in actions:
        known.update_if_marked()
        writer.save(make_state(step), step, {"loss": loss}, overwrite=overwrite)
        expected[step] = loss
        known.update_if_marked()
        found = {step: metrics["loss"] for step, metrics in known.all_metrics().items()}
        assert list(found.items()) == sorted(expected.items())
        packs = known.packs
        known.update()
        assert known.packs == packs
    prune(second.store, lambda _: [1, 12])
    known.update_if_marked()
    assert known.steps == [1, 12, 13]


def test_a_step_that_is_replaced_just_as_it_is_committed_is_read_anew(tmp_path: Path, monkeypatch):
    writer = saved_by(tmp_path, 1, 2)
    other = Writer(Store.open(LocalStorage(tmp_path)))
    known = writer.store.references
    known.update()
    committed = References.committed

    def after_another(self, new, since, mark):
        monkeypatch.setattr(References, "committed", committed)
        other.save(make_state(8), 3, {"loss": 8}, overwrite=True)
        committed(self, new, since, mark)

    monkeypatch.setattr(References, "committed", after_another)
    writer.save(make_state(3), 3, {"loss": 3})
    known.update()
    assert known.all_metrics()[3] == {"loss": 8}
    assert list(verify_store(writer.store)) == []


def test_the_same_in_memory():
    writer = Writer(Store.open_or_create(MemoryStorage()))
    writer.save(make_state(1), 1, {"loss": 1})
    store = Store.open(writer.store.storage)
    assert store.all_metrics() == {1: {"loss": 1}}
    writer.save(make_state(1), 1, {"loss": 9}, overwrite=True)
    assert store.all_metrics() == {1: {"loss": 9}}


def test_under_the_lock_only_what_is_new_is_read(tmp_path: Path):
    saved(tmp_path, *range(1, 21))
    store = Store.open(Counting(tmp_path))
    store.storage.before_lock = lambda: saved(tmp_path, 21)
    keep = KeepLast(3) | KeepBest("loss", 2) | KeepEvery(10)
    report = prune(store, keep.steps)
    assert set(report.steps) == set(range(3, 19)) - {10}
    assert manifests(store.storage.opened_alone) == [21]
    assert list(verify_store(store)) == []


def test_a_step_overwritten_just_before_the_lock_keeps_its_old_data(tmp_path: Path):
    """It may refer to a pack by then that it did not when it was read the first time."""
    writer = Writer(Store.open_or_create(LocalStorage(tmp_path)))
    for step in (1, 2, 3):
        writer.save(make_state(step, frozen=step), step)
    store = Store.open(Counting(tmp_path))

    def overwrite() -> None:
        other = Writer(Store.open(LocalStorage(tmp_path)))
        other.index(other.store.manifest(1))
        report = other.save(make_state(1, frozen=1), 2, overwrite=True)
        assert report.written == 0  # all of it lies in the pack of step 1

    store.storage.before_lock = overwrite
    report = prune(store, lambda _: [2, 3])
    assert report.steps == (1,)
    assert list(verify_store(store)) == []
    check(store[2], make_state(1, frozen=1))


def test_a_step_that_cannot_be_read_is_told_each_time_until_it_can(tmp_path: Path):
    store = saved(tmp_path, 1, 2)
    path = tmp_path / "checkpoints" / f"{1:020d}.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    for _ in range(2):
        with pytest.raises(errors.DamagedError, match=path.name):
            store.all_metrics()
    assert path.name in prune(store, lambda _: [1, 2]).unreadable
    path.write_bytes(whole)
    assert store.all_metrics() == {1: {"loss": 1}, 2: {"loss": 2}}


def test_leftovers_are_looked_for_before_the_lock_too(tmp_path: Path):
    saved(tmp_path, *range(1, 11))
    (tmp_path / "checkpoints" / f"{5:020d}.json").unlink()  # a crash in the midst of pruning
    writer = Writer(Store.open(Counting(tmp_path)))
    writer.save(make_state(11), 11)
    assert manifests(writer.store.storage.opened_alone) == []
    assert len(writer.store.storage.list("data")) == 10
    assert list(verify_store(writer.store)) == []
