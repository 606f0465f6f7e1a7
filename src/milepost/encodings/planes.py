"""Byte planes: a lossless encoding of arrays of numbers, made for trained weights.

The high bytes of such numbers (sign, exponent) take few values, the low ones any. So equal
bytes of neighbouring elements are put beside one another, and each such plane is compressed by
itself, or left as it is where that gains nothing. Of a newer version of the same array, what
is encoded are the differences of the bit patterns, as integers modulo 2^bits, folded so that
small ones of either sign have zeros for high bytes: the zigzag code of Protocol Buffers
(https://protobuf.dev/programming-guides/encoding/#signed-ints). Where there is no other version,
each element is turned left by one bit, so that the exponent of a float fills one byte.

    table     for every stream its length, a little-endian uint32
    streams   of the first block of `BLOCK` elements, of the next, ...

The streams of a block are: the `low` lowest bytes of each element, if `low` is not 0, together
as they are; then plane after plane, from the next byte to the highest, each a Zstandard frame
(RFC 8878), or as it is if it is as long as the plane itself.

The planes of floats hold no repetitions worth finding, only bytes that are frequent. With a
small table of long matches Zstandard soon leaves off looking for them, and codes every byte by
its frequency alone: three times as fast as its level 1, and smaller.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from milepost.dtypes import Array

BLOCK = 1 << 16  # elements: with all that is made of them, half of a core's cache
WIDTHS = (1, 2, 4, 8)
# Below so much gain, a plane is left as it is: then it costs nothing to read.
_WORTH = 0.98


def lows(width: int) -> tuple[int, ...]:
    """How many of the lowest bytes of an element can be kept together."""
    return tuple(low for low in (0, *WIDTHS) if low < width)


class Planes:
    """Encodes and decodes blocks of elements of `width` bytes. Each thread needs its own.

    A block is a one-dimensional array of little-endian unsigned integers, `most` of them or
    fewer. `low` is one of `lows(width)`.
    """

    def __init__(self, width: int, low: int, most: int = BLOCK) -> None:
        self.width, self.low = width, low
        self.dtype = np.dtype(f"<u{width}")
        self._low_dtype = np.dtype(f"<u{low}") if low else None
        self._signed = np.dtype(f"<i{width}")
        self._folded = np.empty(most, self.dtype)
        self._scratch = np.empty(most, self.dtype)
        self._plane = np.empty(most, np.uint8)
        self._zstd = _zstd()

    @functools.cached_property
    def _compressor(self) -> Any:
        return self._zstd.ZstdCompressor(options=_options(self._zstd))

    def sizes(self, count: int) -> list[int]:
        """The bytes of each stream of a block of so many elements, if left as they are."""
        return [count * self.low] * bool(self.low) + [count] * (self.width - self.low)

    def encode(self, block: Array, base: Array | None) -> list[bytes]:
        """The streams of a block; with `base`, of its differences to that."""
        values = self._turned(block) if base is None else self._differences(block, base)
        streams = []
        if self._low_dtype is not None:
            streams.append(values.astype(self._low_dtype).tobytes())
        scratch, plane = self._scratch[: len(values)], self._plane[: len(values)]
        for byte in range(self.low, self.width):
            np.right_shift(values, self.dtype.type(8 * byte), out=scratch)
            np.copyto(plane, scratch, casting="unsafe")
            frame = self._compressor.compress(plane, self._compressor.FLUSH_FRAME)
            streams.append(frame if len(frame) < _WORTH * len(plane) else plane.tobytes())
        return streams

    def _turned(self, block: Array) -> Array:
        turned, top = self._folded[: len(block)], self._scratch[: len(block)]
        np.left_shift(block, self.dtype.type(1), out=turned)
        np.right_shift(block, self.dtype.type(8 * self.width - 1), out=top)
        np.bitwise_or(turned, top, out=turned)
        return turned

    def _differences(self, block: Array, base: Array) -> Array:
        folded = self._folded[: len(block)].view(self._signed)
        sign = self._scratch[: len(block)].view(self._signed)
        np.subtract(block, base, out=folded.view(self.dtype))
        np.right_shift(folded, self._signed.type(8 * self.width - 1), out=sign)
        np.left_shift(folded, self._signed.type(1), out=folded)
        np.bitwise_xor(folded, sign, out=folded)
        return folded.view(self.dtype)

    def decode(self, streams: Sequence[memoryview], base: Array | None, out: Array) -> None:
        """Undo `encode`: `out` is the block, and may be `base` itself.

        Raises:
            ValueError: a stream is not what `encode` wrote for so many elements.
        """
        values, scratch = self._folded[: len(out)], self._scratch[: len(out)]
        high = [self._expanded(stream, len(out)) for stream in streams[bool(self.low) :]]
        np.copyto(values, high.pop())
        for plane in reversed(high):
            np.left_shift(values, self.dtype.type(8), out=values)
            np.copyto(scratch, plane)  # widened first, the rest is as fast as it gets
            np.bitwise_or(values, scratch, out=values)
        if self._low_dtype is not None:
            np.left_shift(values, self.dtype.type(8 * self.low), out=values)
            np.copyto(scratch, np.frombuffer(streams[0], self._low_dtype))
            np.bitwise_or(values, scratch, out=values)
        one = self.dtype.type(1)
        if base is None:
            np.left_shift(values, self.dtype.type(8 * self.width - 1), out=scratch)
            np.right_shift(values, one, out=values)
            np.bitwise_or(values, scratch, out=out)
        else:
            np.bitwise_and(values, one, out=scratch)
            np.negative(scratch, out=scratch)
            np.right_shift(values, one, out=values)
            np.bitwise_xor(values, scratch, out=values)
            np.add(values, base, out=out)

    def _expanded(self, stream: memoryview, count: int) -> Array:
        if len(stream) == count:
            return np.frombuffer(stream, np.uint8)
        decompressor = self._zstd.ZstdDecompressor()
        try:
            data = decompressor.decompress(stream, max_length=count + 1)
        except self._zstd.ZstdError as error:
            raise ValueError(str(error)) from None
        if len(data) != count or not decompressor.eof or decompressor.unused_data:
            raise ValueError(f"expected a frame of {count} bytes")
        return np.frombuffer(data, np.uint8)


def blocks(data: memoryview, width: int) -> Iterator[Array]:
    """Raw bytes as blocks of elements."""
    elements = np.frombuffer(data, f"<u{width}")
    for start in range(0, len(elements), BLOCK):
        yield elements[start : start + BLOCK]


def joined(streams: Sequence[bytes]) -> bytes:
    """The table of the streams of all blocks, and these."""
    return b"".join([struct.pack(f"<{len(streams)}I", *map(len, streams)), *streams])


def table_bytes(planes: Planes, nbytes: int) -> int:
    """The length of the table for so many bytes of raw data."""
    return 4 * len(planes.sizes(0)) * -(-nbytes // (planes.width * BLOCK))


def stream_lengths(table: memoryview, planes: Planes, nbytes: int, room: int) -> list[list[int]]:
    """For each block of `nbytes` of raw data the length of its streams.

    Raises:
        ValueError: these streams are longer than they may be, or than `room` in all.
    """
    lengths = np.frombuffer(table, "<u4").reshape(-1, len(planes.sizes(0)))
    left, result = nbytes // planes.width, []
    for row in lengths.tolist():
        most = planes.sizes(min(left, BLOCK))
        if any(map(int.__gt__, row, most)) or (planes.low and row[0] != most[0]):
            raise ValueError("a stream is longer than what it holds")
        left -= BLOCK
        result.append(row)
    if int(lengths.sum(dtype=np.uint64)) > room:
        raise ValueError("its streams are longer than all of it")
    return result


def _options(zstd: Any) -> dict[Any, int]:
    names = zstd.CompressionParameter
    return {
        names.strategy: zstd.Strategy.fast,
        names.window_log: 17,
        names.hash_log: 6,
        names.chain_log: 6,
        names.search_log: 1,
        names.min_match: 7,
        names.target_length: 0,
    }


def _zstd() -> Any:
    """`compression.zstd`, which Python has from 3.14 on; before, the same from a package."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        from backports import zstd
    return zstd
