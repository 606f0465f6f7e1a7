"""`replace_file`: a file gives way to another in one instant, or not at all."""

from __future__ import annotations

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
from milepost.storage.filesystem import OperatingSystem
from milepost.storage.local import replace_file

OLD, NEW = b"the old one " * 100, b"the new one, which is longer " * 100
PARTS = [NEW[:1000], NEW[1000:]]


def test_it_writes_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "model"
    replace_file(str(target), [OLD], len(OLD))
    replace_file(str(target), PARTS, len(NEW))
    assert target.read_bytes() == NEW
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("fault", [disk_full, input_output_error])
def test_whichever_call_fails_the_old_file_stays_or_the_new_is_whole(tmp_path: Path, fault) -> None:
    target = tmp_path / "model"
    counting = FaultyFileSystem()
    replace_file(str(target), PARTS, len(NEW), counting)
    for at in range(1, len(counting.calls) + 1):
        target.write_bytes(OLD)
        with pytest.raises(errors.StorageError):
            replace_file(str(target), PARTS, len(NEW), FaultyFileSystem(at, fault))
        # Once it is renamed, only the sync of the folder can still fail.
        renamed = at > counting.calls.index("rename") + 1
        assert target.read_bytes() == (NEW if renamed else OLD)
        assert os.listdir(tmp_path) == ["model"]


def test_whenever_the_power_fails_one_of_them_is_there_whole() -> None:
    def disk_with_old(fail_at: int | None = None) -> PowerLossDisk:
        disk = PowerLossDisk()
        replace_file("/model", [OLD], len(OLD), disk)
        disk.fail_at = None if fail_at is None else disk.changes + fail_at
        return disk

    disk = disk_with_old()
    before = disk.changes
    replace_file("/model", PARTS, len(NEW), disk)
    outcomes = set()
    for at in range(1, disk.changes - before + 1):
        broken = disk_with_old(at)
        with pytest.raises(PowerFailure):
            replace_file("/model", PARTS, len(NEW), broken)
        for seed in range(30):
            found = _contents(broken.after_loss(seed), "/model")
            assert found in (OLD, NEW)
            outcomes.add(found)
    assert outcomes == {OLD, NEW}


def _contents(disk: PowerLossDisk, path: str) -> bytes:
    handle = disk.open(path)
    data = bytearray(disk.size(handle))
    disk.read_into(handle, 0, memoryview(data))
    return bytes(data)


def test_a_killed_writer_costs_nothing_and_is_cleaned_up(tmp_path: Path, run_program) -> None:
    target = tmp_path / "model"
    target.write_bytes(OLD)
    run_program(
        """
        from milepost.storage.faults import FaultyFileSystem, kill_process
        from milepost.storage.local import replace_file
        replace_file("model", [b"never finished"] * 9, 126, FaultyFileSystem(4, kill_process))
        """,
        status=-9,
    )
    assert target.read_bytes() == OLD
    assert len(os.listdir(tmp_path)) == 2  # the leftover of the dead one
    replace_file(str(target), [NEW], len(NEW))
    assert target.read_bytes() == NEW
    assert os.listdir(tmp_path) == ["model"]


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    def parts():
        yield b"begun"
        replace_file(str(tmp_path / "model"), [OLD], len(OLD))  # another one, meanwhile
        yield b"ended"

    replace_file(str(tmp_path / "model"), parts(), 10)
    assert (tmp_path / "model").read_bytes() == b"begunended"


def test_a_file_removed_before_it_is_locked_is_made_again(tmp_path: Path) -> None:
    class Unlucky(OperatingSystem):
        """Another process takes the first new file for a dead writer's."""

        created = 0

        def create(self, path: str) -> int:
            handle = super().create(path)
            self.created += 1
            if self.created == 1:
                os.unlink(path)
            return handle

    unlucky = Unlucky()
    replace_file(str(tmp_path / "model"), PARTS, len(NEW), unlucky)
    assert unlucky.created == 2
    assert (tmp_path / "model").read_bytes() == NEW
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(errors.PathNotFoundError, match="nowhere does not exist"):
        replace_file(str(tmp_path / "nowhere" / "model"), [NEW], len(NEW))


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(errors.StorageError, match="Is a directory"):
        replace_file(str(tmp_path), [NEW], len(NEW))


def test_more_than_fits_is_noticed_before(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(OLD)
    with pytest.raises(errors.StorageError, match="nothing was written"):
        replace_file(str(tmp_path / "model"), [NEW], 1 << 60)
    assert (tmp_path / "model").read_bytes() == OLD
    assert os.listdir(tmp_path) == ["model"]
