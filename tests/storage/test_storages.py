"""Every storage passes the battery that ships in `milepost.testing`."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from milepost import errors
from milepost.storage.base import Storage
from milepost.storage.filesystem import OperatingSystem
from milepost.storage.local import LocalStorage, open_file
from milepost.storage.memory import MemoryStorage
from milepost.testing import PowerLossDisk, StorageTests


class TestLocalStorage(StorageTests):
    def make(self, folder: Path) -> Storage:
        return LocalStorage(folder)

    def test_a_writer_at_work_is_not_listed(self, storage: Storage, tmp_path: Path) -> None:
        def parts() -> Iterator[bytes]:
            yield b"half"
            assert storage.list("data") == []
            assert len(os.listdir(tmp_path / "storage" / "partial")) == 1
            yield b"whole"

        storage.write("data/a", parts(), 9)
        assert storage.list("data") == ["a"]
        assert os.listdir(tmp_path / "storage" / "partial") == []

    def test_unfinished_files_are_removed(self, storage: Storage, tmp_path: Path) -> None:
        storage.write("data/a", [b"a"], 1)
        (tmp_path / "storage" / "partial" / "0123-b").write_bytes(b"left by a dead writer")
        storage.remove_unfinished()
        assert os.listdir(tmp_path / "storage" / "partial") == []
        assert storage.list("data") == ["a"]

    def test_a_file_in_the_place_of_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("a letter")
        with pytest.raises(errors.NotAStoreError, match="is a file"):
            LocalStorage(tmp_path / "file").prepare()
        with pytest.raises(errors.StorageError, match="is a file where a folder is needed"):
            LocalStorage(tmp_path / "file" / "store").prepare()
        assert (tmp_path / "file").read_text() == "a letter"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    os.symlink(tmp_path / "fifo", tmp_path / "link")
    with contextlib.closing(listener), contextlib.chdir(tmp_path):
        listener.bind("socket")
        for path in ("fifo", "link", "socket", "/dev/null"):
            with pytest.raises(errors.StorageError, match=f"cannot open {path}: .*no regular file"):
                open_file(path)
        with pytest.raises(errors.StorageError, match="no regular file"):
            LocalStorage(tmp_path).open("fifo")


class TestMemoryStorage(StorageTests):
    def make(self, folder: Path) -> Storage:
        return MemoryStorage()


class TestPowerLossDisk(StorageTests):
    """The disk that the promises are tested with behaves, while the power is on."""

    def make(self, folder: Path) -> Storage:
        return LocalStorage("/storage", PowerLossDisk())

    def test_a_lock_is_waited_for(self, storage: Storage) -> None:
        with storage.lock(exclusive=True), pytest.raises(RuntimeError, match="one process only"):
            storage.lock(exclusive=True).__enter__()


class _NoLinks(OperatingSystem):
    def link(self, source: str, target: str) -> None:
        raise OSError(errno.EPERM, "no hard links here")


class TestLocalStorageWithoutLinks(StorageTests):
    def make(self, folder: Path) -> Storage:
        return LocalStorage(folder, _NoLinks())


class _NoLocks(OperatingSystem):
    @contextlib.contextmanager
    def lock(self, path: str, *, exclusive: bool, wait: bool) -> Iterator[bool]:
        with super().lock(path, exclusive=exclusive, wait=wait):
            # What `filesystem._lock` answers where `flock` is not supported.
            yield not exclusive or wait


def test_without_locks_nothing_is_cleaned_up_that_might_be_alive(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "storage", _NoLocks())
    storage.prepare()
    with storage.lock(exclusive=True, wait=False) as alone:
        assert not alone
    with storage.lock(exclusive=False) as held:
        assert held
