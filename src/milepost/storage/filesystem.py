"""The calls that milepost makes of an operating system, each on its own line.

Nothing else in milepost renames, links, syncs or locks. `OperatingSystem` makes the calls;
`faults` has a disk that loses power, and one whose calls fail, which speak the same protocol,
so that the order of every durable write is tested against them.

What is promised on which filesystem:

- ext4, xfs, btrfs, APFS, NTFS: a file that was synced, renamed or linked, and whose folder
  was synced, survives a loss of power.
- macOS: `fsync` alone leaves data in the drive's cache; `F_FULLFSYNC` is used where the
  filesystem has it.
- Windows: a folder cannot be synced. A commit survives the death of the process; after a
  loss of power the newest names may be missing, never torn.
- Filesystems without hard links (exFAT, some network ones): a name is made by rename under
  a lock instead, which holds among writers of milepost only.
- Filesystems without locks (some network ones): two writers at once are not kept apart, and
  leftovers of dead ones are not removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import sys
import threading
from collections.abc import Hashable, Iterator
from typing import Protocol

from milepost.digest import Buffer
from milepost.storage import marks
from milepost.storage.look import look

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

Handle = int

# What a filesystem answers when it has no hard links, or no locks.
UNSUPPORTED = {
    errno.EPERM,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.ENOLCK,
    errno.EMLINK,
}
# What one answers that has no writes past the page cache.
NOT_DIRECT = {errno.EINVAL, *UNSUPPORTED}
_BUSY = {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK}


class FileSystem(Protocol):
    """One method a system call. Errors are the operating system's own OSError."""

    renames_open_files: bool

    def create(self, path: str) -> Handle:
        """A new file, open for writing; FileExistsError if the name is taken."""

    def open(self, path: str) -> Handle:
        """An existing regular file, open for reading; anything else is an OSError at once."""

    def write(self, handle: Handle, data: Buffer) -> None:
        """Append all of `data`."""

    def write_at(self, handle: Handle, offset: int, data: Buffer) -> None:
        """Write all of `data` at `offset`. Threads may do so at once."""

    def bypass_cache(self, handle: Handle, wanted: bool) -> bool:
        """Whether `write_at` goes past the page cache from now on, as far as that is known.

        Then data, its offset and its length must be aligned to `buffers.BLOCK`, and a
        filesystem that cannot do it after all answers with one of `NOT_DIRECT`.
        """

    def read_into(self, handle: Handle, offset: int, buffer: memoryview) -> int: ...
    def look_into(self, handle: Handle, offset: int, buffer: memoryview) -> int | None:
        """As `read_into`, past the page cache; None if it is to be read as any."""

    def size(self, handle: Handle) -> int: ...
    def sync(self, handle: Handle) -> None: ...
    def close(self, handle: Handle) -> None: ...

    def rename(self, source: str, target: str) -> None:
        """Give a file another name; a file of that name gives way."""

    def exchange(self, path: str, other: str) -> None:
        """Let two files or folders swap their names in one instant; ENOSYS if that cannot be."""

    def link(self, source: str, target: str) -> None:
        """Give a file a second name; FileExistsError if it is taken."""

    def unlink(self, path: str) -> None: ...
    def make_folder(self, path: str) -> None: ...

    def remove_folder(self, path: str) -> None:
        """Remove a folder that is empty."""

    def sync_folder(self, path: str) -> None: ...
    def list(self, path: str) -> list[str]:
        """The names in a folder, in any order."""

    def stamp(self, path: str) -> Hashable:
        """What differs once another file has this name, or, of a folder, its names change."""

    def mark(self, path: str) -> None:
        """Give a folder a mark, if it has none and can have one."""

    def marked(self, path: str) -> str | None:
        """The mark of a folder, which no change of its names leaves; None if it has none."""

    def exists(self, path: str) -> bool: ...
    def is_folder(self, path: str) -> bool: ...
    def free_bytes(self, path: str) -> int: ...

    def lock(
        self, path: str, *, exclusive: bool, wait: bool
    ) -> contextlib.AbstractContextManager[bool]:
        """Lock an existing file until the end of the block; the value is whether it is held."""


class OperatingSystem:
    """The real calls."""

    renames_open_files = sys.platform != "win32"

    def create(self, path: str) -> Handle:
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _FLAGS, 0o666)

    def open(self, path: str) -> Handle:
        # A FIFO would wait for its writer, and a device may act on being opened.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", path)
        # Without blocking, in case that it became a FIFO since.
        return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _FLAGS)

    def write(self, handle: Handle, data: Buffer) -> None:
        view = memoryview(data)
        while view:
            # Linux writes at most 2 GiB a call, and may write less.
            view = view[os.write(handle, view[: 1 << 30]) :]

    def write_at(self, handle: Handle, offset: int, data: Buffer) -> None:
        view = memoryview(data)
        while view:
            count = _write_at(handle, offset, view[: 1 << 30])
            view, offset = view[count:], offset + count

    def bypass_cache(self, handle: Handle, wanted: bool) -> bool:
        return _bypass_cache(handle, wanted)

    def read_into(self, handle: Handle, offset: int, buffer: memoryview) -> int:
        done = 0
        while done < len(buffer):
            count = _read_at(handle, offset + done, buffer[done : done + (1 << 30)])
            if count == 0:
                break
            done += count
        return done

    def look_into(self, handle: Handle, offset: int, buffer: memoryview) -> int | None:
        return look(handle, offset, buffer)

    def size(self, handle: Handle) -> int:
        return os.fstat(handle).st_size

    def sync(self, handle: Handle) -> None:
        if sys.platform == "darwin":
            with contextlib.suppress(OSError):
                fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
                return
        os.fsync(handle)

    def close(self, handle: Handle) -> None:
        os.close(handle)

    def rename(self, source: str, target: str) -> None:
        os.replace(source, target)

    def exchange(self, path: str, other: str) -> None:
        _exchange(path, other)

    def link(self, source: str, target: str) -> None:
        os.link(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def make_folder(self, path: str) -> None:
        os.mkdir(path)

    def remove_folder(self, path: str) -> None:
        os.rmdir(path)

    def sync_folder(self, path: str) -> None:
        if sys.platform == "win32":
            return
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
        try:
            os.fsync(handle)
        except OSError as error:
            # Some network filesystems cannot sync a folder; their servers do it at once.
            if error.errno not in {errno.EINVAL, *UNSUPPORTED}:
                raise
        finally:
            os.close(handle)

    def list(self, path: str) -> list[str]:
        return os.listdir(path)

    def stamp(self, path: str) -> Hashable:
        found = os.stat(path)
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def mark(self, path: str) -> None:
        marks.mark(path)

    def marked(self, path: str) -> str | None:
        return marks.marked(path)

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def is_folder(self, path: str) -> bool:
        return os.path.isdir(path)

    def free_bytes(self, path: str) -> int:
        return shutil.disk_usage(path).free

    @contextlib.contextmanager
    def lock(self, path: str, *, exclusive: bool, wait: bool) -> Iterator[bool]:
        handle = os.open(path, os.O_RDWR | _FLAGS)
        try:
            yield _lock(handle, exclusive=exclusive, wait=wait)
        finally:
            os.close(handle)  # which lets go of the lock


def _exchange(path: str, other: str) -> None:
    """Linux's renameat2 with RENAME_EXCHANGE, which Python has no function for."""
    system = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    renameat2 = getattr(system, "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), path)
    here = -100  # AT_FDCWD
    arguments = (here, os.fsencode(path), here, os.fsencode(other), ctypes.c_uint(2))
    if renameat2(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path, None, other)


_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

if sys.platform == "win32":
    # A file has one position only, which threads that share it move in turns.
    _position = threading.Lock()

    def _read_at(handle: Handle, offset: int, buffer: memoryview) -> int:
        with _position:
            os.lseek(handle, offset, os.SEEK_SET)
            data = os.read(handle, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _write_at(handle: Handle, offset: int, data: memoryview) -> int:
        with _position:
            os.lseek(handle, offset, os.SEEK_SET)
            return os.write(handle, data)

    def _bypass_cache(handle: Handle, wanted: bool) -> bool:
        return False

    def _lock(handle: Handle, *, exclusive: bool, wait: bool) -> bool:
        # Windows has no shared lock here: writers take turns, which keeps every promise.
        # The locked byte lies far behind the file's end, so that the file stays readable.
        os.lseek(handle, 1 << 40, os.SEEK_SET)
        while True:
            try:
                msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            except OSError as error:
                if error.errno not in _BUSY:
                    raise
                if not wait:
                    return False
            else:
                return True

else:

    def _read_at(handle: Handle, offset: int, buffer: memoryview) -> int:
        return os.preadv(handle, [buffer], offset)

    def _write_at(handle: Handle, offset: int, data: memoryview) -> int:
        return os.pwrite(handle, data, offset)

    def _bypass_cache(handle: Handle, wanted: bool) -> bool:
        direct = getattr(os, "O_DIRECT", 0)  # Linux and some BSDs
        try:
            flags = fcntl.fcntl(handle, fcntl.F_GETFL)
            fcntl.fcntl(handle, fcntl.F_SETFL, flags | direct if wanted else flags & ~direct)
        except OSError as error:
            if error.errno not in NOT_DIRECT:
                raise
            return False
        return wanted and bool(direct)

    def _lock(handle: Handle, *, exclusive: bool, wait: bool) -> bool:
        mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(handle, mode if wait else mode | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _BUSY and not wait:
                return False
            if error.errno in UNSUPPORTED:
                # No locks here. Going on alone is safe; cleaning up after others is not.
                return not exclusive or wait
            raise
        return True
