"""Chunks that are encoded in their files, decoded block by block.

A block passes through its base's decoding, its own and the checksum while it is in the core's
cache, so that no more than a few blocks are held beside the result, however deep it stands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from milepost import digest
from milepost.buffers import ALIGNMENT, Buffers
from milepost.chunk import Chunk
from milepost.dtypes import Array, byte_view
from milepost.encodings.planes import (
    BLOCK,
    WIDTHS,
    Planes,
    planes_of,
    stream_lengths,
    table_bytes,
)
from milepost.errors import DamagedError
from milepost.source import ByteSource, fill_exactly

_CHECKED_BYTES = 1 << 20
_BLOCK_BYTES = BLOCK * max(WIDTHS)
_MEMORY = Buffers(8, ALIGNMENT)  # for two threads, and two chunks that stand on one another


def decode_into(files: Sequence[ByteSource], chunk: Chunk, target: memoryview) -> None:
    """Fill `target` with the raw bytes of an encoded chunk.

    Raises:
        DamagedError: they, or what they are made from, are not what was saved.
    """
    assert chunk.encoding is not None
    out = np.frombuffer(target, f"<u{chunk.encoding.width}")
    running = None if chunk.checksum is None else digest.Running(chunk.checksum)
    start = 0
    for block in _decoded(files, chunk, out):
        if running is not None:
            running.update(byte_view(block))
        start += len(block)
    if start != len(out) or (running is not None and running.value != chunk.checksum):
        raise _damaged(files, chunk, f"decoded, it is not {chunk.checksum}")


def check(files: Sequence[ByteSource], chunk: Chunk) -> None:
    """Read what an encoded chunk is made from, its bases too, and check it undecoded.

    Raises:
        DamagedError: it is not what was written.
    """
    found: Chunk | None = chunk
    with _memory() as memory:
        while found is not None:
            _check_stored(files, found, byte_view(memory)[:_CHECKED_BYTES])
            found = None if found.encoding is None else found.encoding.base


def _check_stored(files: Sequence[ByteSource], chunk: Chunk, memory: memoryview) -> None:
    expected = chunk.checksum if chunk.encoding is None else chunk.encoding.checksum
    assert expected is not None
    running = digest.Running(expected)
    for start in range(0, chunk.stored_bytes, len(memory)):
        part = memory[: chunk.stored_bytes - start]
        fill_exactly(files[chunk.file], chunk.position + start, part)
        running.update(part)
    if running.value != expected:
        raise _damaged(files, chunk, f"expected {expected}, found {running.value}")


def _blocks(files: Sequence[ByteSource], chunk: Chunk, width: int) -> Iterator[Array]:
    """The elements of a chunk, block after block, in memory that the next block uses again."""
    with _memory() as memory:
        elements = memory[: BLOCK * width].view(f"<u{width}")
        if chunk.is_encoded:
            yield from _decoded(files, chunk, elements)
            return
        assert chunk.checksum is not None
        running = digest.Running(chunk.checksum)
        for start in range(0, chunk.nbytes, elements.nbytes):
            block = elements[: (chunk.nbytes - start) // width]
            fill_exactly(files[chunk.file], chunk.position + start, byte_view(block))
            running.update(byte_view(block))
            yield block
        if running.value != chunk.checksum:
            raise _damaged(files, chunk, f"expected {chunk.checksum}, found {running.value}")


def _decoded(files: Sequence[ByteSource], chunk: Chunk, out: Array) -> Iterator[Array]:
    """As `_blocks`, of one that is encoded: one after another in `out`, or each at its start."""
    encoding = chunk.encoding
    assert encoding is not None
    planes = planes_of(encoding.width, encoding.low)
    bases = None if encoding.base is None else _blocks(files, encoding.base, encoding.width)
    count = chunk.nbytes // encoding.width
    try:
        with _memory() as memory:
            streams = _streams(files[chunk.file], chunk, planes, byte_view(memory))
            for start, found in zip(range(0, count, BLOCK), streams, strict=True):
                at = start if len(out) == count else 0
                block = out[at : at + min(BLOCK, count - start)]
                base = None if bases is None else next(bases)
                planes.decode(found, base, block)
                yield block
        if bases is not None and next(bases, None) is not None:
            raise ValueError("its base is longer")
    except (ValueError, StopIteration) as error:
        raise _damaged(files, chunk, f"it cannot be decoded ({error})") from None


def _streams(
    file: ByteSource, chunk: Chunk, planes: Planes, memory: memoryview
) -> Iterator[list[memoryview]]:
    """The streams of each block; what was read is checked once all are, if not before."""
    encoding = chunk.encoding
    assert encoding is not None
    if encoding.nbytes <= len(memory):
        yield from _streams_at_once(file, chunk, planes, memory[: encoding.nbytes])
        return
    running = digest.Running(encoding.checksum)
    table = memoryview(bytearray(min(table_bytes(planes, chunk.nbytes), encoding.nbytes)))
    position, end = chunk.position, chunk.end
    fill_exactly(file, position, table)
    running.update(table)
    position += len(table)
    if len(table) < table_bytes(planes, chunk.nbytes):
        raise ValueError("it has no room for its table")
    for row in stream_lengths(table, planes, chunk.nbytes, end - position):
        data = memory[: sum(row)]
        fill_exactly(file, position, data)
        running.update(data)
        position += len(data)
        yield _cut(data, row)
    padding = memoryview(bytearray(end - position))
    fill_exactly(file, position, padding)
    running.update(padding)
    if running.value != encoding.checksum:
        raise ValueError(f"expected {encoding.checksum}, found {running.value}")


def _streams_at_once(
    file: ByteSource, chunk: Chunk, planes: Planes, memory: memoryview
) -> Iterator[list[memoryview]]:
    """As `_streams`, of so few bytes that `memory` holds them all: most chunks are small."""
    encoding = chunk.encoding
    assert encoding is not None
    fill_exactly(file, chunk.position, memory)
    if not digest.matches(encoding.checksum, memory):
        raise ValueError(f"expected {encoding.checksum}, found {digest.checksum(memory)}")
    start = table_bytes(planes, chunk.nbytes)
    if start > len(memory):
        raise ValueError("it has no room for its table")
    found = memory[:start]
    for row in stream_lengths(found, planes, chunk.nbytes, len(memory) - start):
        yield _cut(memory[start:], row)
        start += sum(row)


@contextlib.contextmanager
def _memory() -> Iterator[Array]:
    """Memory for a block of the widest elements, or for what it is encoded as."""
    memory = _MEMORY.take(_BLOCK_BYTES)
    try:
        yield memory
    finally:
        _MEMORY.give(memory)


def _cut(data: memoryview, lengths: Sequence[int]) -> list[memoryview]:
    streams, start = [], 0
    for length in lengths:
        streams.append(data[start : start + length])
        start += length
    return streams


def _damaged(files: Sequence[ByteSource], chunk: Chunk, problem: str) -> DamagedError:
    return DamagedError(
        f"{files[chunk.file].name}: bytes {chunk.position} to {chunk.end} are damaged: {problem}"
    )
