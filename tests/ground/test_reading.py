"""`reading.fetch`: every part in its place and checked, however small, large or scattered."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from milepost import digest, errors, reading
from milepost.buffers import aligned
from milepost.chunk import Chunk
from milepost.dtypes import byte_view
from milepost.reading import Part, fetch
from milepost.source import Window

SIZES = [0, 1, 5, 100, 1000, 4096, 4097, 9000, 20_000]


class Recorded:
    """Bytes in memory, and what was read of them."""

    def __init__(self, data: bytes) -> None:
        self.name, self.data, self.size = "file", data, len(data)
        self.reads: list[tuple[int, int]] = []

    def read_into(self, offset: int, buffer: memoryview) -> int:
        self.reads.append((offset, len(buffer)))
        found = self.data[offset : offset + len(buffer)]
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_BLOCK_BYTES", 4096)
    monkeypatch.setattr("milepost.workers.JOB_BYTES", 10_000)


def laid_out(sizes: list[int], gap: int = 0) -> tuple[Recorded, list[Chunk]]:
    """Chunks of random bytes, one after another."""
    draw, data, chunks = np.random.default_rng(0), bytearray(), []
    for size in sizes:
        data += bytes(gap)
        part = draw.bytes(size)
        chunks.append(Chunk((0,), (size,), None, digest.checksum(part), 0, len(data), size))
        data += part
    return Recorded(bytes(data)), chunks


def parts_of(chunks: list[Chunk]) -> list[Part]:
    return [Part(f"leaf{i}", c, memoryview(bytearray(c.nbytes))) for i, c in enumerate(chunks)]


@pytest.mark.parametrize("sizes", [SIZES, SIZES[::-1], [10] * 3000, [20_000] * 5, [5, 9000] * 9])
@pytest.mark.parametrize("gap", [0, 3, 5000])
@pytest.mark.parametrize("order", [1, -1])
def test_every_part_is_in_its_place(sizes: list[int], gap: int, order: int):
    file, chunks = laid_out(sizes, gap)
    parts = parts_of(chunks)
    fetch([file], parts[::order])
    for part, chunk in zip(parts, chunks, strict=True):
        assert part.target == file.data[chunk.position : chunk.end]


@pytest.mark.parametrize("start", [0, 4096 * 3 + 8])
@pytest.mark.parametrize("behind", [0, 1, 16, 63, 64, 4095])
def test_wherever_memory_begins_beside_its_page(monkeypatch: pytest.MonkeyPatch, start, behind):
    """What a processor is slow to copy to is read elsewhere first, and checked where it ends."""
    monkeypatch.setattr(reading, "_SLOW_BYTES", 0)
    file, [chunk] = laid_out([9000], gap=start)
    memory = aligned(20_000, 4096)
    target = byte_view(memory)[(start + behind) % 4096 :][:9000]
    read_there: list[bool] = []
    file.read_into = _watching(file.read_into, target, read_there)  # type: ignore[method-assign]
    fetch([file], [Part("leaf", chunk, target)])
    assert target == file.data[start:]
    assert all(there == (behind not in (1, 16, 63)) for there in read_there)
    file.data = file.data[:-1] + b"?"
    with pytest.raises(errors.DamagedError, match="leaf"):
        fetch([file], [Part("leaf", chunk, target)])


def _watching(read_into, target: memoryview, read_there: list[bool]):
    whole = np.frombuffer(target, np.uint8)

    def watched(offset: int, buffer: memoryview) -> int:
        read_there.append(np.shares_memory(whole, np.frombuffer(buffer, np.uint8)))
        return read_into(offset, buffer)

    return watched


def test_small_ones_that_lie_together_are_read_as_one():
    file, chunks = laid_out([100] * 400)
    fetch([file], parts_of(chunks))
    assert len(file.reads) <= 12  # of 4 KB each, where there are 400 chunks
    assert sum(size for _, size in file.reads) == file.size


def test_what_nobody_asked_for_is_not_read():
    file, chunks = laid_out([100] * 30)
    fetch([file], parts_of([chunks[0], chunks[9], chunks[29]]))
    assert sum(size for _, size in file.reads) == 300


def test_one_chunk_of_two_leaves():
    file, chunks = laid_out([100, 200])
    parts = parts_of([chunks[0], chunks[1], chunks[0]])
    fetch([file], parts)
    assert parts[0].target == parts[2].target == file.data[:100]


def test_several_files():
    file, chunks = laid_out([5000, 100])
    windows = [Window(f"w{i}", file, c.position, c.nbytes) for i, c in enumerate(chunks)]
    moved = [Chunk((0,), c.shape, None, c.checksum, i, 0, c.nbytes) for i, c in enumerate(chunks)]
    parts = parts_of(moved)
    fetch(windows, parts)
    assert b"".join(bytes(part.target or b"") for part in parts) == file.data


@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize("which", range(len(SIZES)))
def test_every_byte_is_checked(which: int, is_kept: bool):
    file, chunks = laid_out(SIZES)
    chunk = chunks[which]
    for at in {0, chunk.nbytes // 2, chunk.nbytes - 1} if chunk.nbytes else ():
        data = bytearray(file.data)
        data[chunk.position + at] ^= 1
        parts = [p if is_kept else Part(p.leaf, p.chunk, None) for p in parts_of(chunks)]
        with pytest.raises(errors.DamagedError) as raised:
            fetch([Recorded(bytes(data))], parts)
        for word in (f"leaf 'leaf{which}'", f"bytes {chunk.position} to", chunk.checksum):
            assert str(word) in str(raised.value)


@pytest.mark.parametrize("size", [100, 20_000])
def test_a_file_that_ends_too_soon(size: int):
    file, chunks = laid_out([size, size])
    with pytest.raises(errors.DamagedError, match="cut short"):
        fetch([Recorded(file.data[:-1])], parts_of(chunks))


def test_what_has_no_checksum_is_read_as_it_is():
    file, chunks = laid_out([5000, 10, 10])
    bare = [Chunk(c.offset, c.shape, None, None, 0, c.position, c.nbytes) for c in chunks]
    parts = parts_of(bare)
    fetch([file], [*parts, *(Part("x", chunk, None) for chunk in bare)])
    assert b"".join(bytes(part.target or b"") for part in parts) == file.data


def test_digests_that_are_computed_in_parts():
    data = bytes(range(256)) * 5
    for whole in (digest.digest(data), digest.checksum(data)):
        for first, second in itertools.pairwise([0, 1, 240, 241, 1024, len(data)]):
            running = digest.Running(whole)
            for part in (data[:first], data[first:second], data[second:]):
                running.update(part)
            assert running.value == whole
