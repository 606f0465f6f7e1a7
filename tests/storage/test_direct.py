"""`DirectWriter`: data past the page cache where that can be done, and the same file where not."""

from __future__ import annotations

import errno
import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from milepost.buffers import BLOCK, aligned
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


def parts_of(sizes: list[int], off: int = 0) -> list[memoryview]:
    """Parts that begin so many bytes after a block's boundary in memory."""
    draw, parts = np.random.default_rng(len(sizes)), []
    for size in sizes:
        memory = aligned(size + off, BLOCK)[off:]
        memory[:] = np.frombuffer(draw.bytes(size), np.uint8)
        parts.append(memoryview(memory))
    return parts


def write(fs: OperatingSystem, path: Path, parts: list[memoryview], done: Callable | None = None):
    """Write the parts; returns how many were given back, each once it is needed no more."""
    given_back: list[int] = []
    free = threading.Semaphore(3)  # as one who has so many buffers

    def give_back() -> None:
        given_back.append(1)
        free.release()

    handle = fs.create(str(path))
    try:
        with DirectWriter(fs, handle, START) as writer:
            for part in parts:
                assert done or free.acquire(timeout=30)
                writer.append(part, done or give_back)
    finally:
        fs.close(handle)
    return len(given_back)


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small enough to be filled several times."""
    monkeypatch.setattr("milepost.storage.direct.BUFFER_BYTES", 2 * BLOCK)


@pytest.mark.parametrize("filesystem", [Recording, RefusedAtOnce, RefusedLater])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("off", [0, 64])
def test_every_byte_lies_in_its_place(tmp_path: Path, filesystem, sizes, off: int):
    parts = parts_of(sizes, off)
    assert write(filesystem(), tmp_path / "file", parts) == len(parts)
    data = b"".join(parts)
    assert (tmp_path / "file").read_bytes() == (bytes(START) + data if data else b"")


@pytest.mark.parametrize("filesystem", [Recording, RefusedAtOnce, RefusedLater])
@pytest.mark.parametrize("sizes", SIZES)
def test_large_data_is_written_in_parts_and_given_back_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filesystem, sizes
):
    monkeypatch.setattr("milepost.storage.direct.PART_BYTES", 2 * BLOCK)
    parts = parts_of([*sizes, 7 * BLOCK])
    fs = filesystem()
    assert write(fs, tmp_path / "file", parts) == len(parts)
    assert (tmp_path / "file").read_bytes() == bytes(START) + b"".join(parts)
    assert max(length for _, _, length in fs.writes) <= 2 * BLOCK


def test_data_is_given_back_when_its_last_part_is_written(tmp_path: Path, monkeypatch):
    class Slow(Recording):
        def write_at(self, handle: int, offset: int, data) -> None:
            if offset == START:  # the first part ends after all others
                assert others.wait(timeout=30)
                assert not given_back
            super().write_at(handle, offset, data)
            if offset == START + 6 * BLOCK:
                others.set()

    monkeypatch.setattr("milepost.storage.direct.PART_BYTES", 2 * BLOCK)
    others, given_back = threading.Event(), []
    write(Slow(), tmp_path / "file", parts_of([8 * BLOCK]), done=lambda: given_back.append(1))
    assert given_back == [1]


def test_what_is_aligned_is_written_from_where_it_lies(tmp_path: Path):
    class Addresses(Recording):
        def write_at(self, handle: int, offset: int, data) -> None:
            written.append(np.frombuffer(data, np.uint8).ctypes.data)
            super().write_at(handle, offset, data)

    written: list[int] = []
    parts = parts_of([3 * BLOCK] * 4)
    write(Addresses(), tmp_path / "file", parts)
    assert sorted(written) == sorted(np.frombuffer(p, np.uint8).ctypes.data for p in parts)


def in_phase(sizes: list[int]) -> list[memoryview]:
    """Parts that begin as far after a boundary in memory as they will in the file."""
    starts = np.cumsum([0, *sizes[:-1]])
    return [parts_of([size], int(at) % BLOCK)[0] for at, size in zip(starts, sizes, strict=True)]


ODD = [5 * BLOCK + 100, 3 * BLOCK - 7, 1, BLOCK, 6 * BLOCK + 11, 4 * BLOCK - 105, 2 * BLOCK, 9]


def test_what_lies_as_it_will_in_the_file_is_written_from_where_it_lies(tmp_path: Path):
    class Spans(Recording):
        def write_at(self, handle: int, offset: int, data) -> None:
            at = np.frombuffer(data, np.uint8).ctypes.data
            written.extend(range(at, at + len(data), BLOCK))
            super().write_at(handle, offset, data)

    written: list[int] = []
    parts = in_phase(ODD)
    write(Spans(), tmp_path / "file", parts)
    for part in parts:
        first = np.frombuffer(part, np.uint8).ctypes.data
        whole = range(-(-first // BLOCK) * BLOCK, (first + len(part)) // BLOCK * BLOCK, BLOCK)
        if len(part) >= 2 * BLOCK:
            assert set(whole) <= set(written)


@pytest.mark.parametrize("filesystem", [Recording, RefusedAtOnce, RefusedLater])
def test_what_was_given_back_may_be_used_again(tmp_path: Path, filesystem):
    parts = in_phase(ODD)
    data = b"".join(parts)
    fs = filesystem()
    handle = fs.create(str(tmp_path / "file"))

    def scribble(part: memoryview) -> None:
        np.frombuffer(part, np.uint8)[:] = 0xEE

    with DirectWriter(fs, handle, START) as writer:
        for part in parts:
            writer.append(part, functools.partial(scribble, part))
    fs.close(handle)
    assert (tmp_path / "file").read_bytes()[START:] == data


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


def test_one_who_is_told_and_fails_ends_it(tmp_path: Path):
    def done() -> None:
        raise RuntimeError("seen enough")

    fs = Recording()
    with pytest.raises(RuntimeError, match="seen enough"):
        write(fs, tmp_path / "file", parts_of([BLOCK] * 20), done)


def test_a_caller_that_fails_leaves_no_thread(tmp_path: Path):
    fs, before = Recording(), threading.active_count()
    handle = fs.create(str(tmp_path / "file"))

    def fail() -> None:
        with DirectWriter(fs, handle, 0) as writer:
            for part in parts_of([BLOCK] * 5):
                writer.append(part, lambda: None)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    fs.close(handle)
    assert threading.active_count() == before


def test_what_was_given_back_may_change(tmp_path: Path):
    data, done = bytearray(b"1" * 100), []
    fs = Recording()
    handle = fs.create(str(tmp_path / "file"))
    with DirectWriter(fs, handle, 0) as writer:
        writer.append(memoryview(data), lambda: done.append(True))
        assert done
        data[:] = b"2" * 100
    fs.close(handle)
    assert (tmp_path / "file").read_bytes() == b"1" * 100
