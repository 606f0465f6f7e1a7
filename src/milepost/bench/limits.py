"""What a machine can do at best: no save is faster than its writes, no restore than its reads.

Every function returns seconds. Memory that was never touched, or that a virtual machine gave
back to its host, costs far more to use than to fill: what is passed here should have been used
before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from milepost.buffers import ALIGNMENT, BLOCK, aligned
from milepost.dtypes import Array, byte_view
from milepost.storage.filesystem import OperatingSystem
from milepost.workers import Workers

THREADS = 2  # more do not make a disk or a memory faster
PIECE_BYTES = 16 << 20
_READ_BYTES = 1 << 20  # which stays in a core's cache
T = TypeVar("T")


def used(nbytes: int, boundary: int = ALIGNMENT) -> Array:
    """Memory of so many bytes, touched, and aligned as frameworks align an array.

    Where it is not, as with a large array of NumPy's own, some processors take several times as
    long to read a file into it.
    """
    found = aligned(nbytes, boundary)
    found[:] = np.arange(nbytes, dtype=np.uint8)
    return found


def used_buffers() -> list[Array]:
    """One for each thread, aligned for writes past the page cache."""
    return [used(PIECE_BYTES, BLOCK) for _ in range(THREADS)]


def settle() -> None:
    """Let the disk finish what it has left to write, so that nobody pays for another's."""
    if hasattr(os, "sync"):
        os.sync()


def timed(action: Callable[[], object]) -> float:
    """How long an action takes, on a disk that has nothing else to do."""
    settle()
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def write(path: str, nbytes: int, buffers: Sequence[Array], *, direct: bool) -> float:
    """Write a new file and sync it: past the page cache by a thread a buffer, or through it by one.

    It has `nbytes` or up to a block more.
    """
    fs = OperatingSystem()
    handle = fs.create(path)
    whole = -(-nbytes // BLOCK) * BLOCK

    def write_piece(piece: tuple[int, int]) -> None:
        start, stop = piece
        buffer = buffers[start // PIECE_BYTES % len(buffers)]
        fs.write_at(handle, start, byte_view(buffer)[: stop - start])

    def run() -> None:
        _in_threads(write_piece, _pieces(whole), THREADS if direct else 1)
        fs.sync(handle)

    try:
        if direct:
            fs.bypass_cache(handle, True)
        return timed(run)
    finally:
        fs.close(handle)


def read(path: str, targets: Sequence[Array]) -> float:
    """Read a file from its start into memory that exists, until that is full, by two threads.

    Each reads one half, piece after piece: where they take turns, the disk is far slower.
    """
    fs = OperatingSystem()
    pieces: list[tuple[int, memoryview]] = []
    position = 0
    for target in targets:
        view = byte_view(target)
        parts = _pieces(len(view), _READ_BYTES)
        pieces += [(position + start, view[start:stop]) for start, stop in parts]
        position += len(view)
    handle = fs.open(path)

    def read_pieces(pieces: Sequence[tuple[int, memoryview]]) -> None:
        for start, view in pieces:
            if fs.read_into(handle, start, view) != len(view):
                raise EOFError(f"{path} is shorter than the memory to fill")

    half = len(pieces) // THREADS
    try:
        return timed(lambda: _in_threads(read_pieces, [pieces[:half], pieces[half:]], THREADS))
    finally:
        fs.close(handle)


def copy(sources: Sequence[Array], targets: Sequence[Array]) -> float:
    """Copy arrays into others by two threads."""
    pieces = [
        (target.reshape(-1)[start:stop], source.reshape(-1)[start:stop])
        for source, target in zip(sources, targets, strict=True)
        for start, stop in _pieces(source.size, PIECE_BYTES // max(1, source.itemsize))
    ]
    return timed(lambda: _in_threads(lambda piece: np.copyto(*piece), pieces, THREADS))


def goes_direct(folder: str) -> bool:
    """Whether files in a folder can be written past the page cache."""
    fs = OperatingSystem()
    path = os.path.join(folder, "direct")
    handle = fs.create(path)
    try:
        direct = fs.bypass_cache(handle, True)
        fs.write_at(handle, 0, byte_view(aligned(BLOCK, BLOCK)))
    except OSError:
        return False
    finally:
        fs.close(handle)
        fs.unlink(path)
    return direct


def can_drop_cache() -> bool:
    """Whether the operating system takes a file out of its page cache when asked to."""
    return hasattr(os, "posix_fadvise")


def drop_cache(path: str) -> None:
    """Take a file, or every file below a folder, out of the page cache: the next read is cold.

    What was not written to the disk yet stays, so sync first.
    """
    for name in files_below(path) if os.path.isdir(path) else [path]:
        handle = os.open(name, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def fill_cache(path: str, scratch: Array) -> None:
    """Read a file, or every file below a folder: the next read is warm."""
    for name in files_below(path) if os.path.isdir(path) else [path]:
        with open(name, "rb", buffering=0) as file:
            while file.readinto(byte_view(scratch)):
                pass


def files_below(folder: str) -> list[str]:
    """Every file in a folder and in those below it."""
    return [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]


def filesystem_of(path: str) -> str | None:
    """What kind of filesystem a path is on, `ext4` for one; None where Linux does not tell."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return None
    here = os.path.realpath(path)
    kind, longest = None, -1
    for fields in mounts:
        # Octal escapes stand for blanks: `/mnt/my\040disk`.
        place = fields[4].encode("latin-1", "replace").decode("unicode_escape").rstrip("/")
        if len(place) >= longest and (here == place or here.startswith(f"{place}/")):
            kind, longest = fields[fields.index("-") + 1], len(place)
    return kind


def _pieces(nbytes: int, most: int = PIECE_BYTES) -> list[tuple[int, int]]:
    return [(start, min(nbytes, start + most)) for start in range(0, nbytes, most)]


def _in_threads(function: Callable[[T], object], items: Iterable[T], threads: int) -> None:
    if threads == 1:
        for item in items:
            function(item)
        return
    with Workers(threads, "milepost-limit") as workers:
        jobs = [workers.submit(function, item) for item in items]
        for job in jobs:
            job.result()
