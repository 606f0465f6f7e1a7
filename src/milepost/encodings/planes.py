"""Byte planes: a lossless encoding of arrays of numbers, made for trained weights.

The high bytes of such numbers (sign, exponent) take few values, the low ones any. So equal
bytes of neighbouring elements are put beside one another, and each such plane is compressed by
itself, or left as it is where that gains nothing. Of a newer version of the same array, what
is encoded are the differences of the bit patterns, as integers modulo 2^bits, plus 0x80 in every
byte but the highest: so small differences of either sign have the same high bytes.

    table     for every stream its length, a little-endian uint32
    streams   of the first block of `BLOCK` elements, of the next, ...

The streams of a block are: the `low` lowest bytes of each element, if `low` is not 0, together
as they are; then plane after plane, from the next byte to the highest, each a Zstandard frame
(RFC 8878), or as it is if it is as long as the plane itself.

The planes of floats hold no repetitions worth finding, only bytes that are frequent. With a
small table of long matches Zstandard soon leaves off looking for them, and codes every byte by
its frequency alone: three times as fast as its level 1, and smaller.

Everything is done in few calls of NumPy over many elements each: threads that call often wait
for Python's lock more than they work.
"""

from __future__ import annotations

import functools
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from milepost.dtypes import Array

BLOCK = 1 << 18  # elements
WIDTHS = (1, 2, 4, 8)
# Below so much gain, a plane is left as it is: then it costs nothing to read.
_WORTH = 0.95
_BYTE = np.uint16(8)


def lows(width: int) -> tuple[int, ...]:
    """How many of the lowest bytes of an element can be kept together."""
    return tuple(low for low in (0, 2, 4) if low < width)


class Planes:
    """Encodes and decodes blocks of elements of `width` bytes. Each thread needs its own.

    A block is a one-dimensional array of little-endian unsigned integers, `BLOCK` of them or
    fewer. `low` is one of `lows(width)`.
    """

    def __init__(self, width: int, low: int) -> None:
        self.width, self.low = width, low
        self.dtype = np.dtype(f"<u{width}")
        self._low_dtype = np.dtype(f"<u{low}") if low else None
        self._bias = self.dtype.type(int.from_bytes(b"\x80" * (width - 1), "little"))
        self._zstd = _zstd()

    @functools.cached_property
    def _values(self) -> Array:
        return np.empty(BLOCK, self.dtype)

    @functools.cached_property
    def _pair(self) -> Array:
        return np.empty(BLOCK, "<u2")

    @functools.cached_property
    def _plane(self) -> Array:
        return np.empty(BLOCK, np.uint8)

    @functools.cached_property
    def _compressor(self) -> Any:
        return self._zstd.ZstdCompressor(options=_options(self._zstd))

    def sizes(self, count: int) -> list[int]:
        """The bytes of each stream of a block of so many elements, if left as they are."""
        return [count * self.low] * bool(self.low) + [count] * (self.width - self.low)

    def encode(self, block: Array, base: Array | None) -> list[bytes]:
        """The streams of a block; with `base`, of its differences to that."""
        values = block
        if base is not None:
            values = self._values[: len(block)]
            np.subtract(block, base, out=values)
            np.add(values, self._bias, out=values)
        if self.width == 1:
            return [self._compressed(values)]
        streams = []
        if self._low_dtype is not None:
            streams.append(values.view(self._low_dtype)[:: self.width // self.low].tobytes())
        pair, plane = self._pair[: len(block)], self._plane[: len(block)]
        for at in range(self.low // 2, self.width // 2):
            np.copyto(pair, values.view("<u2")[at :: self.width // 2])
            np.copyto(plane, pair, casting="unsafe")
            streams.append(self._compressed(plane))
            np.right_shift(pair, _BYTE, out=pair)
            np.copyto(plane, pair, casting="unsafe")
            streams.append(self._compressed(plane))
        return streams

    def _compressed(self, plane: Array) -> bytes:
        frame: bytes = self._compressor.compress(plane, self._compressor.FLUSH_FRAME)
        return frame if len(frame) < _WORTH * len(plane) else plane.tobytes()

    def decode(self, streams: Sequence[memoryview], base: Array | None, out: Array) -> None:
        """Undo `encode`: `out` is the block, and no part of `base`.

        Raises:
            ValueError: a stream is not what `encode` wrote for so many elements.
        """
        planes = [self._expanded(stream, len(out)) for stream in streams[bool(self.low) :]]
        if self.width == 1:
            np.copyto(out, planes[0])
        elif self.width == 2:
            self._paired(planes[0], planes[1], out)
        else:
            if self._low_dtype is not None:
                low = np.frombuffer(streams[0], self._low_dtype)
                np.copyto(out.view(self._low_dtype)[:: self.width // self.low], low)
            pair = self._pair[: len(out)]
            for at in range(self.low // 2, self.width // 2):
                self._paired(planes[2 * at - self.low], planes[2 * at - self.low + 1], pair)
                np.copyto(out.view("<u2")[at :: self.width // 2], pair)
        if base is not None:
            np.subtract(out, self._bias, out=out)
            np.add(out, base, out=out)

    @staticmethod
    def _paired(low: Array, high: Array, out: Array) -> None:
        np.left_shift(high, _BYTE, out=out, dtype=np.uint16)
        np.bitwise_or(out, low, out=out)

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


class _Own(threading.local):
    """What each thread has of its own."""

    def __init__(self) -> None:
        self.planes: dict[tuple[int, int], Planes] = {}


_own = _Own()


def planes_of(width: int, low: int) -> Planes:
    """Those of the calling thread."""
    if (width, low) not in _own.planes:
        _own.planes[width, low] = Planes(width, low)
    return _own.planes[width, low]


def blocks(data: memoryview, width: int) -> Iterator[Array]:
    """Raw bytes as blocks of elements."""
    elements = np.frombuffer(data, f"<u{width}")
    for start in range(0, len(elements), BLOCK):
        yield elements[start : start + BLOCK]


def table(streams: Sequence[bytes]) -> bytes:
    """The table of the streams of all blocks, which comes before these."""
    return struct.pack(f"<{len(streams)}I", *map(len, streams))


def table_bytes(planes: Planes, nbytes: int) -> int:
    """The length of the table for so many bytes of raw data."""
    return 4 * len(planes.sizes(0)) * -(-nbytes // (planes.width * BLOCK))


def stream_lengths(found: memoryview, planes: Planes, nbytes: int, room: int) -> list[list[int]]:
    """For each block of `nbytes` of raw data the length of its streams, by the table `found`.

    Raises:
        ValueError: these streams are longer than they may be, or than `room` in all.
    """
    lengths = np.frombuffer(found, "<u4").reshape(-1, len(planes.sizes(0)))
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
        names.window_log: 18,
        names.hash_log: 6,
        names.chain_log: 6,
        names.search_log: 1,
        names.min_match: 7,
        names.target_length: 0,
    }


@functools.cache
def _zstd() -> Any:
    """`compression.zstd`, which Python has from 3.14 on; before, the same from a package."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        from backports import zstd
    return zstd
