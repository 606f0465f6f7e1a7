"""Folders that take another's place: the power may fail between any two calls."""

from __future__ import annotations

import errno
import os

import pytest

from milepost.storage.faults import PowerFailure, PowerLossDisk
from milepost.storage.folder import replace_folder

LOSSES = 12  # possible disks drawn for every point of failure
OLD = {"one": b"old one", "two": b"old two"}
NEW = {"one": b"new", "three": b"new three"}
PATH = "/runs/model"


class WithoutExchange(PowerLossDisk):
    """As on a filesystem that cannot let two folders swap their names."""

    def exchange(self, path: str, other: str) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), path)


def read(disk: PowerLossDisk, path: str = PATH) -> dict[str, bytes]:
    found = {}
    for name in disk.list(path):
        handle = disk.open(f"{path}/{name}")
        data = bytearray(disk.size(handle))
        disk.read_into(handle, 0, memoryview(data))
        disk.close(handle)
        found[name] = bytes(data)
    return found


def replace(disk: PowerLossDisk, files: dict[str, bytes], replaced: dict[str, bytes]) -> None:
    contents = {name: ([data], len(data)) for name, data in files.items()}
    replace_folder(PATH, contents, tuple(replaced), disk)


def prepared(kind: type[PowerLossDisk], before: dict[str, bytes]) -> PowerLossDisk:
    disk = kind()
    disk.make_folder("/runs")
    disk.sync_folder("/")
    if before:
        replace(disk, before, {})
        disk.sync_folder("/runs")  # its own leftovers are gone
    return disk


def broken(kind: type[PowerLossDisk], before: dict[str, bytes], at: int) -> PowerLossDisk:
    disk = prepared(kind, before)
    disk.fail_at = disk.changes + at
    with pytest.raises(PowerFailure):
        replace(disk, NEW, before)
    return disk


def changes(kind: type[PowerLossDisk], before: dict[str, bytes]) -> int:
    disk = prepared(kind, before)
    start = disk.changes
    replace(disk, NEW, before)
    assert read(disk) == NEW
    return disk.changes - start


@pytest.mark.parametrize("before", [{}, OLD], ids=["nothing", "a folder"])
@pytest.mark.parametrize("kind", [PowerLossDisk, WithoutExchange])
def test_a_folder_is_the_old_or_the_new_one(kind: type[PowerLossDisk], before: dict[str, bytes]):
    outcomes = []
    for at in range(1, changes(kind, before) + 1):
        for seed in range(LOSSES):
            disk = broken(kind, before, at).after_loss(seed)
            found = read(disk) if disk.exists(PATH) else {}
            outcomes.append(found)
            hidden = [read(disk, f"/runs/{name}") for name in disk.list("/runs") if "old" in name]
            assert found in (before, NEW) or (kind is WithoutExchange and OLD in hidden)
            # The next save works, and removes what the dead one left.
            replace(disk, OLD, found or before)
            assert read(disk) == OLD
            assert disk.list("/runs") == ["model"]
    assert before in outcomes
    assert NEW in outcomes


@pytest.mark.parametrize("kind", [PowerLossDisk, WithoutExchange])
def test_what_was_replaced_stays_so(kind: type[PowerLossDisk]):
    disk = prepared(kind, OLD)
    replace(disk, NEW, OLD)
    for seed in range(10 * LOSSES):
        assert read(disk.after_loss(seed)) == NEW
