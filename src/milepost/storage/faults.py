"""Filesystems that fail on purpose: what the promises about commits are tested with.

`FaultyFileSystem` makes the real calls and, at one of them, fails or kills its own process.
`PowerLossDisk` is a disk in memory that forgets, when its power fails, any part of what was
not synced. Both ship with milepost, so that whoever writes a storage can use them too.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import signal
import threading
from collections.abc import Callable, Hashable, Iterator

from milepost.buffers import BLOCK
from milepost.digest import Buffer
from milepost.storage.filesystem import Handle, OperatingSystem

# The calls that change something, in whose midst a crash can come.
CHANGES = (
    *("create", "write", "write_at", "sync", "rename", "exchange", "link", "unlink", "make_folder"),
    *("remove_folder", "sync_folder", "mark"),
)


def disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def input_output_error() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def kill_process() -> None:
    """SIGKILL to this very process: no handler, no cleanup, no exit code of ours."""
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


class FaultyFileSystem(OperatingSystem):
    """The real calls, until call number `at` (counted from 1 over `CHANGES`): then `fault()`.

    A write at that point writes half of its data first. `calls` records what was called, so
    that a run without a fault (`at=None`) tells how many points of failure there are.
    """

    def __init__(
        self, at: int | None = None, fault: Callable[[], None] = input_output_error
    ) -> None:
        self.calls: list[str] = []
        self._turn = threading.Lock()  # some calls come from several threads
        self._at = at
        self._fault = fault

    def fail_after(self, calls: int) -> None:
        """Fail at the call that comes after so many more."""
        self._at = len(self.calls) + calls + 1

    def _is_due(self, call: str) -> bool:
        with self._turn:
            self.calls.append(call)
            return len(self.calls) == self._at

    def _before(self, call: str) -> None:
        if self._is_due(call):
            self._fault()

    def create(self, path: str) -> Handle:
        self._before("create")
        return super().create(path)

    def write(self, handle: Handle, data: Buffer) -> None:
        if self._is_due("write"):
            super().write(handle, memoryview(data)[: len(data) // 2])
            self._fault()
        super().write(handle, data)

    def write_at(self, handle: Handle, offset: int, data: Buffer) -> None:
        if self._is_due("write_at"):
            half = len(data) // 2 // BLOCK * BLOCK
            super().write_at(handle, offset, memoryview(data)[:half])
            self._fault()
        super().write_at(handle, offset, data)

    def sync(self, handle: Handle) -> None:
        self._before("sync")
        super().sync(handle)

    def rename(self, source: str, target: str) -> None:
        self._before("rename")
        super().rename(source, target)

    def exchange(self, path: str, other: str) -> None:
        self._before("exchange")
        super().exchange(path, other)

    def link(self, source: str, target: str) -> None:
        self._before("link")
        super().link(source, target)

    def unlink(self, path: str) -> None:
        self._before("unlink")
        super().unlink(path)

    def make_folder(self, path: str) -> None:
        self._before("make_folder")
        super().make_folder(path)

    def remove_folder(self, path: str) -> None:
        self._before("remove_folder")
        super().remove_folder(path)

    def mark(self, path: str) -> None:
        self._before("mark")
        super().mark(path)

    def sync_folder(self, path: str) -> None:
        self._before("sync_folder")
        super().sync_folder(path)


class PowerFailure(BaseException):
    """The power failed. Not an Exception: nothing may catch it and go on."""


class _File:
    _numbers = itertools.count()

    def __init__(self) -> None:
        self.number = next(self._numbers)
        self.data = bytearray()
        self.synced = b""
        self.unsynced: list[tuple[int, bytes]] = []  # what was written since, and where

    def write(self, offset: int, data: Buffer) -> None:
        _put(self.data, offset, data)
        self.unsynced.append((offset, bytes(data)))

    def sync(self) -> None:
        self.synced = bytes(self.data)
        self.unsynced.clear()


class PowerLossDisk:
    """A disk in memory whose power fails at change number `fail_at` (counted from 1).

    Until it is synced, a change may or may not be on the disk afterwards, whatever came
    before or after it: data of a file may be missing, cut short or zeroed, a name may be
    absent or still the old one. This is more than any real filesystem forgets. Only folders
    change their names in the order in which they were told to, and with all that is in them.
    `after_loss` draws one of the possible disks.
    """

    renames_open_files = True

    def __init__(self, fail_at: int | None = None, free: int = 1 << 40) -> None:
        self.changes = 0
        self.fail_at = fail_at
        self._free = free
        self._names: dict[str, _File | None] = {"/": None}  # None: a folder
        self._synced_names: dict[str, _File | None] = {"/": None}
        self._swaps: list[tuple[str, str]] = []  # of folders, not synced yet
        self._marks: dict[str, str] = {}  # of folders; the power takes them with it
        self._open: dict[Handle, _File] = {}
        self._locks: dict[str, int] = {}
        self._turn = threading.Lock()  # of threads that write at once

    def after_loss(self, seed: int) -> PowerLossDisk:
        """A disk as it may be found after the loss of power."""
        draw = random.Random(seed)
        disk = PowerLossDisk(free=self._free)
        current, names = dict(self._names), dict(self._synced_names)
        done = draw.randint(0, len(self._swaps))
        for path, other in self._swaps[:done]:
            # A folder that has got a name has one, whether or not it was synced before.
            names = _swapped(names, path, other) | {other: None}
        for pair in reversed(self._swaps[done:]):
            current = _swapped(current, *pair)
        before = dict(names)
        for name in sorted(current.keys() | before.keys()):
            now, then = current.get(name, _GONE), before.get(name, _GONE)
            if now is not then and draw.random() < 0.5:
                if now is _GONE:
                    del names[name]
                else:
                    names[name] = now  # type: ignore[assignment]
        survivors: dict[int, _File | None] = {}
        for name in sorted(names):
            if all(parent in names for parent in _parents(name)):
                # Two names of one file still show the same data.
                if id(names[name]) not in survivors or names[name] is None:
                    survivors[id(names[name])] = _survivor(names[name], draw)
                disk._names[name] = survivors[id(names[name])]
        disk._synced_names = dict(disk._names)
        return disk

    def _change(self) -> None:
        self.changes += 1
        if self.fail_at is not None and self.changes >= self.fail_at:
            raise PowerFailure

    def _changed_in(self, *paths: str) -> None:
        for path in paths:
            self._marks.pop(os.path.dirname(path), None)

    def _find(self, path: str) -> _File:
        file = self._names.get(path, _GONE)
        if file is _GONE:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if not isinstance(file, _File):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return file

    def create(self, path: str) -> Handle:
        self._change()
        if path in self._names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        if not self.is_folder(os.path.dirname(path)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self._names[path] = _File()
        self._changed_in(path)
        return self._handle(path)

    def open(self, path: str) -> Handle:
        return self._handle(path)

    def _handle(self, path: str) -> Handle:
        handle = max(self._open, default=0) + 1
        self._open[handle] = self._find(path)
        return handle

    def write(self, handle: Handle, data: Buffer) -> None:
        self.write_at(handle, len(self._open[handle].data), data)

    def write_at(self, handle: Handle, offset: int, data: Buffer) -> None:
        with self._turn:
            file = self._open[handle]
            if self.changes + 1 == self.fail_at:
                file.write(offset, memoryview(data)[: len(data) // 2])
            self._change()
            file.write(offset, data)

    def bypass_cache(self, handle: Handle, wanted: bool) -> bool:
        return False

    def read_into(self, handle: Handle, offset: int, buffer: memoryview) -> int:
        part = self._open[handle].data[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    def look_into(self, handle: Handle, offset: int, buffer: memoryview) -> int | None:
        return None

    def size(self, handle: Handle) -> int:
        return len(self._open[handle].data)

    def sync(self, handle: Handle) -> None:
        self._change()
        self._open[handle].sync()

    def close(self, handle: Handle) -> None:
        del self._open[handle]

    def rename(self, source: str, target: str) -> None:
        self._change()
        if self.is_folder(source):
            if target in self._names:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), target)
            self._swap(source, target)
            return
        self._names[target] = self._find(source)
        del self._names[source]
        self._changed_in(source, target)

    def exchange(self, path: str, other: str) -> None:
        self._change()
        for name in (path, other):
            if name not in self._names:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        self._swap(path, other)

    def _swap(self, path: str, other: str) -> None:
        """Let folders swap their names, with all that is in them; one of them may be absent."""
        self._swaps.append((path, other))
        self._marks.clear()
        self._names = _swapped(self._names, path, other)

    def link(self, source: str, target: str) -> None:
        self._change()
        if target in self._names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        self._names[target] = self._find(source)
        self._changed_in(target)

    def unlink(self, path: str) -> None:
        self._change()
        self._find(path)
        del self._names[path]
        self._changed_in(path)

    def make_folder(self, path: str) -> None:
        self._change()
        if path in self._names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self._names[path] = None
        self._changed_in(path)

    def remove_folder(self, path: str) -> None:
        self._change()
        if self.list(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        del self._names[path]
        self._changed_in(path)

    def sync_folder(self, path: str) -> None:
        self._change()
        for pair in [pair for pair in self._swaps if os.path.dirname(pair[0]) == path]:
            self._synced_names = _swapped(self._synced_names, *pair)
            self._swaps.remove(pair)
        elsewhere = {n: f for n, f in self._synced_names.items() if os.path.dirname(n) != path}
        self._synced_names = elsewhere | {
            n: f for n, f in self._names.items() if os.path.dirname(n) == path or n == "/"
        }

    def list(self, path: str) -> list[str]:
        if not self.is_folder(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return sorted(
            os.path.basename(n) for n in self._names if n != "/" and os.path.dirname(n) == path
        )

    def stamp(self, path: str) -> Hashable:
        if self.is_folder(path):
            return self.changes
        return self._find(path).number

    def mark(self, path: str) -> None:
        if not self.is_folder(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if path not in self._marks:
            self._change()
            self._marks[path] = f"{id(self)} {self.changes}"

    def marked(self, path: str) -> str | None:
        return self._marks.get(path)

    def exists(self, path: str) -> bool:
        return path in self._names

    def is_folder(self, path: str) -> bool:
        return self._names.get(path, _GONE) is None

    def free_bytes(self, path: str) -> int:
        return self._free

    @contextlib.contextmanager
    def lock(self, path: str, *, exclusive: bool, wait: bool) -> Iterator[bool]:
        self._find(path)
        holders = self._locks.get(path, 0)
        if holders and (exclusive or holders < 0):
            if wait:
                raise RuntimeError(f"{path} is locked, and this disk has one process only")
            yield False
            return
        self._locks[path] = -1 if exclusive else holders + 1
        try:
            yield True
        finally:
            self._locks[path] = 0 if exclusive else self._locks[path] - 1


_GONE = object()


def _swapped(names: dict[str, _File | None], path: str, other: str) -> dict[str, _File | None]:
    """The same names, but for two folders, and what is in them, that swap theirs."""

    def new(name: str) -> str:
        for source, target in ((path, other), (other, path)):
            if name == source or name.startswith(source + "/"):
                return target + name[len(source) :]
        return name

    return {new(name): file for name, file in names.items()}


def _parents(path: str) -> Iterator[str]:
    while path != "/":
        path = os.path.dirname(path)
        yield path


def _survivor(file: _File | None, draw: random.Random) -> _File | None:
    """What is left of a file: what was synced, and any part of what was not."""
    if file is None:
        return None
    left = _File()
    left.data = bytearray(file.synced)
    for offset, data in file.unsynced:
        fate = draw.choice(("lost", "kept", "cut", "zeroed"))
        if fate == "kept":
            _put(left.data, offset, data)
        elif fate == "cut":
            _put(left.data, offset, data[: draw.randint(0, len(data))])
        elif fate == "zeroed":
            _put(left.data, offset, bytes(len(data)))
    left.sync()
    return left


def _put(file: bytearray, offset: int, data: Buffer) -> None:
    """Write at an offset; what lies between the file's end and there is zeros."""
    if data:
        file.extend(bytes(max(0, offset - len(file))))
        file[offset : offset + len(data)] = data
