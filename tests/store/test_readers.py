"""Reading needs no lock: what another process removes meanwhile is whole, or not found."""

from __future__ import annotations

from pathlib import Path

import pytest

import milepost
from milepost import errors
from milepost.storage.local import LocalStorage
from milepost.storage.memory import MemoryStorage
from milepost.store import CheckpointSnapshot, Store, Writer, prune, verify, verify_store

from .conftest import check, make_state


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    writer = Writer(Store.open_or_create(LocalStorage(tmp_path)))
    for step in (1, 2):
        writer.save(make_state(step, frozen=step), step, {"loss": step})
    return writer


@pytest.fixture
def reader(writer: Writer, tmp_path: Path) -> Store:
    return Store.open(LocalStorage(tmp_path))


def go_on(writer: Writer) -> None:
    """What another process does: step 3 takes the place of all others."""
    if 3 not in writer.store:
        writer.save(make_state(3, frozen=3), 3, {"loss": 3})
        prune(writer.store, lambda _: [3])


def overwrite(writer: Writer) -> None:
    writer.save(make_state(7, frozen=7), 2, overwrite=True)


def before_reading_a_manifest(monkeypatch, reader: Store, action) -> None:
    read = reader._read_manifest

    def act_and_read(step: int):
        action()
        return read(step)

    monkeypatch.setattr(reader, "_read_manifest", act_and_read)
    monkeypatch.setattr(reader.references, "_read_manifest", act_and_read)


@pytest.mark.parametrize("step", [2, "latest", "max:loss"])
def test_what_is_opened_can_be_read_to_the_end(writer, reader, step):
    with reader.open_step(step) as checkpoint:
        go_on(writer)
        check(checkpoint, make_state(2, frozen=2))


def test_what_is_overwritten_can_be_read_to_the_end(writer, reader):
    with reader.open_step(2) as checkpoint:
        overwrite(writer)
        check(checkpoint, make_state(2, frozen=2))


@pytest.mark.parametrize("step", ["latest", "max:loss", "min:loss"])
def test_if_a_step_goes_there_is_the_next_that_fits(writer, reader, monkeypatch, step):
    before_reading_a_manifest(monkeypatch, reader, lambda: go_on(writer))
    with reader.open_step(step) as checkpoint:
        assert checkpoint.step == 3
        check(checkpoint, make_state(3, frozen=3))


def test_if_its_data_goes_first_there_is_the_next_that_fits(writer, reader, monkeypatch):
    monkeypatch.setattr(reader, "advice", lambda step: pytest.fail("nothing is damaged"))
    hold = CheckpointSnapshot.hold

    def hold_too_late(self):
        go_on(writer)
        return hold(self)

    monkeypatch.setattr(CheckpointSnapshot, "hold", hold_too_late)
    assert reader.latest.step == 3


def test_if_a_step_is_overwritten_there_is_the_new_one(writer, reader, monkeypatch):
    hold = CheckpointSnapshot.hold

    def hold_too_late(self):
        monkeypatch.setattr(CheckpointSnapshot, "hold", hold)
        overwrite(writer)
        return hold(self)

    monkeypatch.setattr(CheckpointSnapshot, "hold", hold_too_late)
    check(reader.open_step(2), make_state(7, frozen=7))


def test_a_store_that_changes_all_the_time_is_given_up(reader, monkeypatch):
    monkeypatch.setattr(CheckpointSnapshot, "hold", lambda self: False)
    with pytest.raises(errors.StepNotFoundError, match="step latest was removed.*try again"):
        reader.open_step("latest")


def test_a_step_that_was_read_before_is_read_anew(writer, reader):
    assert reader[2]["progress/epoch"] == 2
    overwrite(writer)
    assert reader.open_step(2)["progress/epoch"] == 7
    go_on(writer)
    with pytest.raises(errors.StepNotFoundError, match="has no step 2; it has 3"):
        reader.open_step(2)


def test_what_is_gone_is_not_damaged(writer, reader):
    checkpoint = reader[2]  # opens nothing yet
    go_on(writer)
    with pytest.raises(errors.StepNotFoundError, match=r"step 2 was removed or overwritten"):
        checkpoint.read("model/kernel")


def test_a_step_that_never_was_is_not_found(reader):
    with pytest.raises(errors.StepNotFoundError, match="has no step 9; it has 1, 2"):
        reader.open_step(9)
    with pytest.raises(errors.StepNotFoundError, match="has no checkpoint yet"):
        Store.open_or_create(MemoryStorage()).open_step("latest")
    with pytest.raises(errors.UsageError, match="expected a step's number"):
        reader.open_step("newest")


def test_damage_is_told_when_a_leaf_is_read_that_has_it(writer, reader, tmp_path):
    min((tmp_path / "data").iterdir()).unlink()
    with reader.open_step(1) as checkpoint:
        assert checkpoint["progress/epoch"] == 1
        with pytest.raises(errors.DamagedError, match="is missing.*newest intact step is 2"):
            checkpoint.read("model/kernel")


def test_more_packs_than_may_be_held_are_opened_when_they_are_read(reader, monkeypatch):
    monkeypatch.setattr("milepost.store.snapshot._MOST_HELD", 0)
    with reader.open_step(2) as checkpoint:
        assert all(pack._source is None for pack in checkpoint._packs)
        check(checkpoint, make_state(2, frozen=2))


def test_metrics_of_what_is_gone_are_passed_over(writer, reader, monkeypatch):
    before_reading_a_manifest(monkeypatch, reader, lambda: go_on(writer))
    assert reader.all_metrics() == {}


def test_what_goes_while_it_is_verified_is_not_damaged(writer, reader, monkeypatch):
    before_header = verify._verify_header

    def go_on_first(store, pack):
        go_on(writer)
        return before_header(store, pack)

    monkeypatch.setattr(verify, "_verify_header", go_on_first)
    assert list(verify_store(reader)) == []


def test_what_is_overwritten_while_it_is_verified_is_looked_at_again(writer, reader, monkeypatch):
    seen = []
    before_header = verify._verify_header

    def overwrite_first(store, pack):
        if not seen:
            overwrite(writer)
        seen.append(pack.name)
        return before_header(store, pack)

    monkeypatch.setattr(verify, "_verify_header", overwrite_first)
    assert list(verify_store(reader, [2])) == []
    assert len(seen) == 2


def test_a_step_that_is_not_there_is_not_intact(reader, tmp_path):
    with pytest.raises(errors.StepNotFoundError, match="has no step 9"):
        milepost.verify(tmp_path, 9)


def test_a_store_is_there_if_its_marker_is(tmp_path: Path):
    storage = LocalStorage(tmp_path / "store")
    assert not Store.is_there(storage)
    (tmp_path / "store").mkdir()
    assert not Store.is_there(storage)
    Store.open_or_create(storage)
    assert Store.is_there(storage)
