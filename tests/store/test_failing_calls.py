"""A system call fails in the midst of a save: a clear error, and nothing of the save is left."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from milepost import errors
from milepost.storage.faults import FaultyFileSystem, disk_full, input_output_error
from milepost.storage.local import LocalStorage
from milepost.store import Store, Writer, verify_store

from .conftest import check, make_state


def _writer(folder: Path, filesystem: FaultyFileSystem) -> Writer:
    return Writer(Store.open_or_create(LocalStorage(folder, filesystem)))


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("fault", [disk_full, input_output_error])
def test_whichever_call_fails_the_store_is_as_it_was(tmp_path: Path, fault, background: bool):
    def save(writer: Writer, seed: int) -> None:
        if background:
            writer.start(make_state(seed), seed).result()
        else:
            writer.save(make_state(seed), seed)

    def attempt(folder: Path, after: int | None) -> FaultyFileSystem:
        filesystem = FaultyFileSystem(fault=fault)
        writer = _writer(folder, filesystem)
        save(writer, 1)
        before = len(filesystem.calls)
        if after is not None:
            filesystem.fail_after(after)
        save(writer, 2)
        del filesystem.calls[:before]
        return filesystem

    calls = attempt(tmp_path / "whole", None).calls
    assert calls.count("write_at") > 3
    assert {"create", "write", "sync", "link", "sync_folder"} <= set(calls)
    assert calls[-4:] == ["unlink", "create", "write", "rename"]
    for number in range(len(calls)):
        folder = tmp_path / str(number)
        if number >= len(calls) - 4 or calls[number] in ("unlink", "mark"):
            # Removing the second name of what is committed: nobody minds if it stays. Nor that
            # it is not noted which step is the newest, or is not known for certain.
            attempt(folder, number)
            assert Store.open(LocalStorage(folder)).latest.step == 2
            continue
        with pytest.raises(errors.StorageError, match="cannot|full"):
            attempt(folder, number)
        store = Store.open(LocalStorage(folder))
        assert store.steps == [1]
        check(store[1], make_state(1))
        assert len(os.listdir(folder / "data")) == 1
        assert os.listdir(folder / "partial") == []
        Writer(store).save(make_state(3), 2)  # and the step is free
        assert list(verify_store(store)) == []


@pytest.mark.parametrize("fault", [disk_full, input_output_error])
def test_whichever_call_fails_an_overwritten_step_is_the_old_or_the_new(tmp_path: Path, fault):
    def attempt(folder: Path, after: int | None) -> list[str]:
        filesystem = FaultyFileSystem(fault=fault)
        writer = _writer(folder, filesystem)
        writer.save(make_state(1), 1)
        before = len(filesystem.calls)
        if after is not None:
            filesystem.fail_after(after)
        writer.save(make_state(2), 1, overwrite=True)
        return filesystem.calls[before:]

    calls = attempt(tmp_path / "whole", None)
    assert "rename" in calls
    for number in range(len(calls)):
        folder = tmp_path / str(number)
        with contextlib.suppress(errors.StorageError):
            attempt(folder, number)
        store = Store.open(LocalStorage(folder))
        assert list(verify_store(store)) == []
        epoch = store[1]["progress/epoch"]
        assert epoch in (1, 2)
        check(store[1], make_state(int(epoch)))


def test_the_message_says_what_to_do(tmp_path: Path):
    filesystem = FaultyFileSystem(fault=disk_full)
    writer = _writer(tmp_path / "store", filesystem)
    filesystem.fail_after(3)
    with pytest.raises(errors.StorageError, match="full: free some space") as caught:
        writer.save(make_state(1), 1)
    assert isinstance(caught.value, OSError)
    assert str(tmp_path / "store") in str(caught.value)


def test_a_failed_save_does_not_pass_for_saved_data(tmp_path: Path):
    """The next save must not refer to a pack that the failed one took back."""
    filesystem = FaultyFileSystem(fault=input_output_error)
    writer = _writer(tmp_path / "store", filesystem)
    filesystem.fail_after(8)  # the manifest's write, after the pack is in place
    with pytest.raises(errors.StorageError):
        writer.save(make_state(1), 1)
    writer.save(make_state(1), 1)
    assert list(verify_store(Store.open(LocalStorage(tmp_path / "store")))) == []
