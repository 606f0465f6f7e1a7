"""Removing checkpoints: nothing that is kept loses data, and nothing is lost to make room."""

from __future__ import annotations

import os
from pathlib import Path

from milepost.storage.local import LocalStorage
from milepost.store import Store, Writer, prune, verify_store

from .conftest import check, make_state


def saved(folder: Path, *steps: int) -> Writer:
    writer = Writer(Store.open_or_create(LocalStorage(folder)))
    for step in steps:
        writer.save(make_state(step), step)
    return writer


def test_only_what_is_kept_is_left(tmp_path: Path):
    store = saved(tmp_path, 1, 2, 3, 4).store
    report = prune(store, lambda _: [2, 4, 77])
    assert report.steps == (1, 3)
    assert store.steps == [2, 4]
    for step in (2, 4):
        check(store[step], make_state(step))
    assert list(verify_store(store)) == []


def test_shared_data_stays_as_long_as_one_refers_to_it(tmp_path: Path):
    store = saved(tmp_path, 1, 2).store
    prune(store, lambda _: [2])
    assert len(os.listdir(tmp_path / "data")) == 2  # the frozen leaf lies in the first
    Writer(store).save(make_state(3, frozen=9), 3)
    report = prune(store, lambda _: [3])
    assert len(report.packs) == 2
    assert len(os.listdir(tmp_path / "data")) == 1
    check(store[3], make_state(3, frozen=9))


def test_the_newest_is_never_removed(tmp_path: Path):
    store = saved(tmp_path, 1, 2).store
    assert prune(store, lambda _: []).steps == (1,)
    assert store.steps == [2]
    check(store[2], make_state(2))


def test_while_a_manifest_cannot_be_read_all_data_stays(tmp_path: Path):
    store = saved(tmp_path, 1, 2, 3).store
    damaged = tmp_path / "checkpoints" / f"{2:020d}.json"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    store = Store.open(LocalStorage(tmp_path))
    packs = os.listdir(tmp_path / "data")
    report = prune(store, lambda _: [2, 3])
    assert report.steps == (1,)
    assert report.packs == ()
    assert damaged.name in report.unreadable
    assert os.listdir(tmp_path / "data") == packs


def test_files_of_others_in_the_store_are_left_alone(tmp_path: Path):
    store = saved(tmp_path, 1, 2).store
    (tmp_path / "data" / "notes.txt").write_text("mine")
    (tmp_path / "checkpoints" / "README").write_text("mine")
    prune(store, lambda _: [2])
    saved(tmp_path, 3)
    assert (tmp_path / "data" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "checkpoints" / "README").read_text() == "mine"
    assert store.steps == [2, 3]


def test_data_that_no_checkpoint_refers_to_is_found_by_the_next_writer(tmp_path: Path):
    saved(tmp_path, 1, 2)
    (tmp_path / "checkpoints" / f"{2:020d}.json").unlink()  # a crash in the midst of pruning
    assert len(os.listdir(tmp_path / "data")) == 2
    saved(tmp_path, 3)
    store = Store.open(LocalStorage(tmp_path))
    assert {int(file[:20]) for file in os.listdir(tmp_path / "data")} == {1, 3}
    assert list(verify_store(store)) == []
