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

The planes of floats hold few repetitions worth finding, only bytes that are frequent. So most are
compressed by that alone: Zstandard then looks for nothing, but codes every byte by its frequency,
which is sooner done, both ways. Where repetitions are found to gain more, a small table of long
matches finds them.

Everything is done in few calls of NumPy over many elements each: threads that call often wait
for Python's lock more than they work.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from milepost.digest import Buffer
from milepost.dtypes import Array, byte_view

BLOCK = 1 << 18  # elements
WIDTHS = (1, 2, 4, 8)
# Below so much gain, a plane is left as it is: then it costs nothing to read.
_WORTH = 0.95
# Repetitions are taken where they save so much more of a plane: they take twice as long to read.
_MATCHED = 0.01
# What stays longer in a sample, which is a little longer than its share, is not compressed at all.
_HOPELESS = 0.97
_BYTE = np.uint16(8)
# Of Zstandard: how far apart it looks for repetitions, at most; and a parameter that Python has no
# name for, ZSTD_c_literalCompressionMode. Where it is unknown, repetitions are looked for.
_NEVER, _LITERAL_COMPRESSION = 1 << 17, 1002


class Way(enum.Enum):
    """How a plane is compressed: not at all, by the frequencies of bytes, or by repetitions too."""

    RAW = enum.auto()
    LITERALS = enum.auto()
    MATCHES = enum.auto()


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
    def _shifted(self) -> Array:
        return np.empty(BLOCK, self.dtype)

    @functools.cached_property
    def _pair(self) -> Array:
        return np.empty(BLOCK, "<u2")

    @functools.cached_property
    def _plane(self) -> Array:
        return np.empty(BLOCK, np.uint8)

    @functools.cached_property
    def _compressors(self) -> dict[Way, Any]:
        return {way: _compressor(self._zstd, way) for way in (Way.LITERALS, Way.MATCHES)}

    def sizes(self, count: int) -> list[int]:
        """The bytes of each stream of a block of so many elements, if left as they are."""
        return [count * self.low] * bool(self.low) + [count] * (self.width - self.low)

    def encode(
        self, block: Array, base: Array | None, ways: Sequence[Way] | None = None
    ) -> list[Buffer]:
        """The streams of a block; with `base`, of its differences to that.

        `ways`: how each plane is compressed, from the lowest; by its literals if not given.
        """
        values = block if base is None else self._differences(block, base)
        streams: list[Buffer] = []
        if self._low_dtype is not None:
            streams.append(byte_view(values.astype(self._low_dtype)))
        ways = ways or (Way.LITERALS,) * (self.width - self.low)
        for plane, way in zip(self._split(values), ways, strict=True):
            frame = plane.tobytes() if way is Way.RAW else self._compressed(plane, way)
            streams.append(frame if len(frame) < _WORTH * len(plane) else plane.tobytes())
        return streams

    def tried(self, block: Array, base: Array | None) -> list[tuple[Way, int]]:
        """How each plane of a block, from the lowest, is best compressed, and its length then."""
        values = block if base is None else self._differences(block, base)
        return [self._tried(plane) for plane in self._split(values)]

    def _tried(self, plane: Array) -> tuple[Way, int]:
        way, size = Way.LITERALS, len(self._compressed(plane, Way.LITERALS))
        other = len(self._compressed(plane, Way.MATCHES))
        if other < size - _MATCHED * len(plane):
            way, size = Way.MATCHES, other
        if size >= _HOPELESS * len(plane):
            way = Way.RAW
        return way, size if size < _WORTH * len(plane) else len(plane)

    def _differences(self, block: Array, base: Array) -> Array:
        values = self._values[: len(block)]
        np.subtract(block, base, out=values)
        np.add(values, self._bias, out=values)
        return values

    def _split(self, values: Array) -> Iterator[Array]:
        """Plane after plane, from the lowest that is no low byte, in memory of the next one."""
        if self.width == 1:
            yield values
            return
        pair, plane = self._pair[: len(values)], self._plane[: len(values)]
        for at in range(self.low, self.width, 2):
            pairs = values
            if at:
                pairs = self._shifted[: len(values)]
                np.right_shift(values, self.dtype.type(8 * at), out=pairs)
            np.copyto(pair, pairs, casting="unsafe")
            np.copyto(plane, pair, casting="unsafe")
            yield plane
            np.right_shift(pair, _BYTE, out=pair)
            np.copyto(plane, pair, casting="unsafe")
            yield plane

    def _compressed(self, plane: Array, way: Way) -> bytes:
        compressor = self._compressors[way]
        frame: bytes = compressor.compress(plane, compressor.FLUSH_FRAME)
        return frame

    def decode(self, streams: Sequence[memoryview], base: Array | None, out: Array) -> None:
        """Undo `encode`: `out` is the block, and no part of `base`.

        Raises:
            ValueError: a stream is not what `encode` wrote for so many elements.
        """
        planes = [self._expanded(stream, len(out)) for stream in streams[bool(self.low) :]]
        if self.width == 1:
            np.copyto(out, planes[0])
        else:
            self._join(planes, out)
        if self._low_dtype is not None:
            np.left_shift(out, self.dtype.type(8 * self.low), out=out)
            np.bitwise_or(out, np.frombuffer(streams[0], self._low_dtype), out=out)
        if base is not None:
            np.subtract(out, self._bias, out=out)
            np.add(out, base, out=out)

    def _join(self, planes: Sequence[Array], out: Array) -> None:
        """Elements of two planes or more, the highest first, without their low bytes."""
        pair = out if self.width == 2 else self._pair[: len(out)]
        for at in range(len(planes) - 1, 0, -2):
            np.left_shift(planes[at], _BYTE, out=pair, dtype=np.uint16)
            np.bitwise_or(pair, planes[at - 1], out=pair)
            if at == len(planes) - 1:
                np.copyto(out, pair)
            else:
                np.left_shift(out, self.dtype.type(16), out=out)
                np.bitwise_or(out, pair, out=out)

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


def table(streams: Sequence[Buffer]) -> bytes:
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


def _compressor(zstd: Any, way: Way) -> Any:
    names = zstd.CompressionParameter
    options = {
        names.strategy: zstd.Strategy.fast,
        names.window_log: 18,
        names.hash_log: 6,
        names.chain_log: 6,
        names.search_log: 1,
        names.min_match: 7,
        names.target_length: 0,
    }
    if way is Way.LITERALS:
        # It would not compress literals then, unless told to.
        literals = {**options, names.target_length: _NEVER, _LITERAL_COMPRESSION: 1}
        with contextlib.suppress(ValueError, zstd.ZstdError):
            return zstd.ZstdCompressor(options=literals)
    return zstd.ZstdCompressor(options=options)


@functools.cache
def _zstd() -> Any:
    """`compression.zstd`, which Python has from 3.14 on; before, the same from a package."""
    # glibc gives pieces of 128 KB or more back to the system at once, until it has seen a larger
    # one come and go; and to touch fresh memory takes as long as to decompress into it.
    np.empty(1 << 22, np.uint8)
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        from backports import zstd
    return zstd
