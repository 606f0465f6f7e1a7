"""How a chunk of an old checkpoint is encoded: tried on a sample, done, and undone to compare."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from milepost import digest
from milepost.chunk import MAX_BYTES, MAX_RATIO, PLANES, STORED, Chunk, Encoding
from milepost.container import ALIGNMENT
from milepost.digest import Buffer
from milepost.dtypes import Array
from milepost.encodings.planes import BLOCK, WIDTHS, Way, blocks, lows, planes_of, table
from milepost.errors import DamagedError

# What is smaller, or would shrink by less, is kept as it is: a record costs some bytes, too.
_LEAST_BYTES = 4096
_LEAST_GAIN = 1024
_WORTH = 0.97  # of its size; above, reading it slower buys too little
_SAMPLES, _SAMPLE = 8, 8192  # so many pieces of so many elements


@dataclass(frozen=True, slots=True)
class Encoded:
    """The bytes of a chunk as they go into a pack, and what to say of them."""

    encoding: Encoding
    parts: Sequence[Buffer]  # which follow one another


@dataclass(frozen=True, slots=True)
class _Trial:
    """What a sample has shown: `share` is the size after by the size before."""

    share: float
    low: int
    ways: tuple[Way, ...]


class Recoder:
    """Encodes chunks. Each thread needs its own."""

    def __init__(self) -> None:
        self._undone = np.empty(BLOCK * max(WIDTHS), np.uint8)

    def alone(self, raw: memoryview, width: int) -> Encoded:
        """The raw bytes of a chunk encoded by themselves, or as they are if that gains nothing.

        `width` is the bytes of a number: 1, 2, 4 or 8.

        Raises:
            DamagedError: what was encoded does not decode to the same.
        """
        if not _is_encodable(raw):
            return _stored(raw)
        trial = self._trial(raw, width, None)
        return self._encoded(raw, width, trial, None) if trial.share < _WORTH else _stored(raw)

    def share_alone(self, raw: memoryview, width: int) -> float:
        """About what share of its size a chunk takes when it is encoded by itself."""
        return self._trial(raw, width, None).share if _is_encodable(raw) else 1.0

    def differences(
        self, raw: memoryview, width: int, base: tuple[Chunk, memoryview], most: float
    ) -> Encoded | None:
        """The bytes of a chunk encoded as differences to another; None if that gains too little.

        Arguments:
            raw: its raw bytes.
            width: the bytes of a number.
            base: the other chunk, of as many raw bytes, and these.
            most: the share of its size that the differences may take.

        Raises:
            DamagedError: what was encoded does not decode to the same.
        """
        if not _is_encodable(raw):
            return None
        trial = self._trial(raw, width, base[1])
        if trial.share >= min(most, _WORTH):
            return None
        found = self._encoded(raw, width, trial, base)
        return found if found.encoding.codec == PLANES else None

    def _encoded(
        self, raw: memoryview, width: int, trial: _Trial, base: tuple[Chunk, memoryview] | None
    ) -> Encoded:
        planes = planes_of(width, trial.low)
        streams: list[Buffer] = []
        for block, other in _pairs(raw, None if base is None else base[1], width):
            found = planes.encode(block, other, trial.ways)
            undone = self._undone[: block.nbytes].view(planes.dtype)
            planes.decode([memoryview(stream) for stream in found], other, undone)
            if not np.array_equal(undone, block):
                raise DamagedError(
                    "what was encoded does not decode to the same: check this machine's memory"
                )
            streams += found
        parts: list[Buffer] = [table(streams), *streams]
        size = sum(map(len, parts))
        least = max(size, math.ceil(len(raw) / MAX_RATIO))
        parts.append(bytes(least - size + -least % ALIGNMENT))
        stored = sum(map(len, parts))
        if stored > len(raw) - _LEAST_GAIN:
            return _stored(raw)
        chunk = None if base is None else base[0]
        encoding = Encoding(PLANES, stored, digest.checksum_of(parts), width, trial.low, chunk)
        return Encoded(encoding, parts)

    def _trial(self, raw: memoryview, width: int, base: memoryview | None) -> _Trial:
        """Some elements encoded with every plane on its own."""
        block = _sample(raw, width)
        other = None if base is None else _sample(base, width)
        ways, sizes = zip(*planes_of(width, 0).tried(block, other), strict=True)
        # Low bytes of which none gains anything are kept together: that is sooner read.
        low = max(low for low in lows(width) if set(ways[:low]) <= {Way.RAW})
        return _Trial(sum(sizes) / block.nbytes, low, ways[low:])


def _is_encodable(raw: memoryview) -> bool:
    """Whether it is worth it, and what readers accept."""
    return _LEAST_BYTES <= len(raw) <= MAX_BYTES


def _stored(raw: memoryview) -> Encoded:
    # A copy, because its memory is used for the next chunk before this one is on the disk.
    encoding = Encoding(STORED, len(raw), digest.checksum(raw))
    return Encoded(encoding, [bytes(raw)])


def _pairs(
    raw: memoryview, base: memoryview | None, width: int
) -> Iterator[tuple[Array, Array | None]]:
    if base is None:
        for block in blocks(raw, width):
            yield block, None
    else:
        yield from zip(blocks(raw, width), blocks(base, width), strict=True)


def _sample(raw: memoryview, width: int) -> Array:
    """All elements, or some from all over."""
    elements = np.frombuffer(raw, f"<u{width}")
    if len(elements) <= _SAMPLES * _SAMPLE:
        return elements
    step = (len(elements) - _SAMPLE) // (_SAMPLES - 1)
    starts = range(0, _SAMPLES * step, step)
    return np.concatenate([elements[start : start + _SAMPLE] for start in starts])
