"""`DirectWriter`: data past the page cache where that can be done, and the same file where not."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from milepost.buffers import BLOCK
from milepost.storage.direct import DirectWriter
from milepost.storage.filesystem import OperatingSystem

START = 2 * BLOCK
SIZES = [
    [],
    [0],
    [1],
    [BLOCK],
    [BLOCK - 1, 1, BLOCK + 1],
    [3 * BLOCK, 0, 5, 3 * BLOCK, 7, 3 * BLOCK - 5],
    [10] * 3000,
    [3 * BLOCK] * 20,
]


class Recording(OperatingSystem):
    """The real calls, and what was asked of them."""

    def __init__(self) -> None:
        self.direct = False
        self.writes: list[tuple[bool, int, int]] = []

    def bypass_cache(self, handle: int, wanted: bool) -> bool:
        self.direct = super().bypass_cache(handle, wanted)
        return self.direct

    def write_at(self, handle: int, offset: int, data) -> None:
        self.writes.append((self.direct, offset, len(data)))
        super().write_at(handle, offset, data)


class RefusedAtOnce(Recording):
    """A filesystem, or a system, that knows no writes past its cache."""

    def bypass_cache(self, handle: int, wanted: bool) -> bool:
        return False


class RefusedLater(Recording):
    """One that says so only when something is to be written."""

    def bypass_cache(self, handle: int, wanted: bool) -> bool:
        super().bypass_cache(handle, False)
        self.direct = wanted
        return wanted

    def write_at(self, handle: int, offset: int, data) -> None:
        if self.direct:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        super().write_at(handle, offset, data)


def parts_of(sizes: list[int]) -> list[bytes]:
    draw = np.random.default_rng(len(sizes))
    return [draw.bytes(size) for size in sizes]


def write(fs: OperatingSystem, path: Path, parts: list[bytes], watch: Callable | None = None):
    """Write the parts with one that watches them go past; returns what it saw, by part."""
    seen: dict[int, bytes] = {}

    def watcher(number: int) -> Callable[[memoryview], None]:
        return lambda copy: seen.update({number: bytes(copy)}) if watch is None else watch(copy)

    handle = fs.create(str(path))
    try:
        largest = max(map(len, parts), default=0)
        with DirectWriter(fs, handle, START, largest) as writer:
            for number, part in enumerate(parts):
                assert bytes(writer.add(part, watcher(number))) == part
    finally:
        fs.close(handle)
    return seen


@pytest.mark.parametrize("filesystem", [Recording, RefusedAtOnce, RefusedLater])
@pytest.mark.parametrize("sizes", SIZES)
def test_every_byte_lies_in_its_place_and_was_seen(tmp_path: Path, filesystem, sizes):
    parts = parts_of(sizes)
    seen = write(filesystem(), tmp_path / "file", parts)
    data = b"".join(parts)
    assert (tmp_path / "file").read_bytes() == (bytes(START) + data if data else b"")
    assert [seen[number] for number in range(len(parts))] == parts


def test_whole_blocks_are_written_and_only_the_rest_is_not(tmp_path: Path):
    fs = Recording()
    write(fs, tmp_path / "file", parts_of([3 * BLOCK + 100] * 20))
    rest = 20 * 100 % BLOCK
    assert all(offset % BLOCK == 0 for _, offset, _ in fs.writes)
    assert [size for _, _, size in fs.writes if size % BLOCK] == [rest]
    assert fs.writes[-1][::2] == (False, rest)  # which no write past the cache could be


def test_memory_is_aligned_as_the_disk_needs_it(tmp_path: Path):
    addresses = []

    class Aligned(Recording):
        def write_at(self, handle: int, offset: int, data) -> None:
            if len(data) % BLOCK == 0:
                addresses.append(np.frombuffer(data, np.uint8).ctypes.data)
            super().write_at(handle, offset, data)

    write(Aligned(), tmp_path / "file", parts_of([BLOCK + 1] * 40))
    assert addresses
    assert all(address % BLOCK == 0 for address in addresses)


@pytest.mark.parametrize("number", range(1, 8))
def test_a_write_that_fails_ends_it_and_no_thread_writes_on(tmp_path: Path, number: int):
    class Failing(Recording):
        def write_at(self, handle: int, offset: int, data) -> None:
            self.writes.append((self.direct, offset, len(data)))
            if len(self.writes) == number:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    fs, before = Failing(), threading.active_count()
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write(fs, tmp_path / "file", parts_of([2 * BLOCK] * 200))
    assert threading.active_count() == before
    assert len(fs.writes) < 100


def test_one_who_watches_and_fails_ends_it(tmp_path: Path):
    def watch(copy: memoryview) -> None:
        raise RuntimeError("seen enough")

    fs = Recording()
    with pytest.raises(RuntimeError, match="seen enough"):
        write(fs, tmp_path / "file", parts_of([BLOCK] * 20), watch)
    assert fs.writes == []


def test_a_caller_that_fails_leaves_no_thread(tmp_path: Path):
    fs, before = Recording(), threading.active_count()
    handle = fs.create(str(tmp_path / "file"))

    def fail() -> None:
        with DirectWriter(fs, handle, 0, BLOCK) as writer:
            for part in parts_of([BLOCK] * 5):
                writer.add(part, lambda copy: None)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    fs.close(handle)
    assert threading.active_count() == before


def test_what_is_written_is_the_copy_whatever_becomes_of_the_data(tmp_path: Path):
    data = bytearray(b"1" * BLOCK)
    fs = Recording()
    handle = fs.create(str(tmp_path / "file"))
    with DirectWriter(fs, handle, 0, BLOCK) as writer:
        writer.add(data, lambda copy: None)
        data[:] = b"2" * BLOCK
    fs.close(handle)
    assert (tmp_path / "file").read_bytes() == b"1" * BLOCK
