"""Marks: by the time of a folder, whether any name in it has changed since.

A folder's mtime is set to now by every name that is added, removed or replaced. By itself it
does not tell: of two changes within one tick of the clock, some milliseconds, the second leaves
it as it is. So it is set back, by some seconds and a random number of nanoseconds. From then on
the next change is sure to show, whoever makes it: it puts the time forward again. A folder has a
mark as long as its mtime lies behind its ctime, which no program can set.

This holds where this machine's own kernel keeps the folder, in a filesystem that is known to
do so: on Linux, the names in `_TRUSTED`, with times in nanoseconds. A network's filesystem may
show an old time; elsewhere there are no marks, and folders are listed.

A mark that was read from a file does not outlive the machine's boot: after a loss of power a
filesystem without a journal may have a new name in the folder, and the old time of it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import sys
from collections.abc import Iterator

from milepost import digest

_TRUSTED = {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "tmpfs", "overlay"}
# More than a tick of any clock, and than the precision of any time that has nanoseconds.
_BEHIND = 2 * 10**9
# Times that are whole milliseconds may be all that the filesystem keeps.
_COARSE = 10**6


def mark(path: str) -> None:
    """Give a folder a mark, if it can have one, and unless it has.

    Raises:
        OSError: not permitted, for one: times belong to a folder's owner.
    """
    with _folder(path) as handle:
        if handle is None or not _is_trusted(handle) or _mark_of(handle) is not None:
            return
        found = os.fstat(handle)
        behind = _BEHIND + secrets.randbelow(10**9)
        os.utime(handle, ns=(found.st_atime_ns, found.st_ctime_ns - behind))


def marked(path: str) -> str | None:
    """The mark that a folder has, of which nothing but equality means anything; None if none."""
    with _folder(path) as handle:
        return None if handle is None else _mark_of(handle)


@contextlib.contextmanager
def _folder(path: str) -> Iterator[int | None]:
    """A folder, open; None where there are no marks."""
    if sys.platform != "linux":
        yield None
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _mark_of(handle: int) -> str | None:
    found = os.fstat(handle)
    behind = found.st_ctime_ns - found.st_mtime_ns
    if behind < _BEHIND or found.st_mtime_ns % _COARSE == 0:
        return None
    if not _is_trusted(handle) or _boot() is None:
        return None
    facts = (_boot(), found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
    # A digest, because marks are written down, and a store tells nothing about its machine.
    return digest.digest(" ".join(map(str, facts)).encode())


@functools.cache
def _boot() -> str | None:
    """What is another after the machine has started anew."""
    try:
        return _read("/proc/sys/kernel/random/boot_id").strip() or None
    except OSError:
        return None


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return file.read().decode("utf-8", "replace")


_trusted: dict[tuple[int, int], bool] = {}


def _is_trusted(handle: int) -> bool:
    """Whether the filesystem of an open folder is one of those that are known."""
    found = os.fstat(handle)
    key = found.st_dev, found.st_ino
    if key not in _trusted:
        while len(_trusted) >= 64:
            _trusted.pop(next(iter(_trusted)), None)
        _trusted[key] = _kind(handle) in _TRUSTED
    return _trusted[key]


def _kind(handle: int) -> str | None:
    """The kind of filesystem that an open folder is in, as the kernel calls it."""
    try:
        facts = _read(f"/proc/self/fdinfo/{handle}")
        mounts = _read("/proc/self/mountinfo")
    except OSError:
        return None
    number = re.search(r"^mnt_id:\s*(\d+)$", facts, re.MULTILINE)
    kind = number and re.search(rf"^{number[1]} .* - (\S+) ", mounts, re.MULTILINE)
    return kind[1] if kind else None
