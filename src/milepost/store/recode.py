"""How a chunk of an old checkpoint is encoded: tried on a sample, done, and undone to compare.

Neighbouring checkpoints differ little. So of the chunks at one place in one leaf, one is the
base, and those after it are encoded as differences to it: never to one another, so that any
of them is read with one more step than the base. The longer ago the base, the larger the
differences; once they cost more than the group has cost on average, the next group begins,
which is where its average is lowest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from milepost import digest
from milepost.chunk import MAX_RATIO, PLANES, STORED, Chunk, Encoding
from milepost.dtypes import Array
from milepost.encodings.planes import BLOCK, WIDTHS, Planes, blocks, joined, lows
from milepost.errors import DamagedError

# What is smaller, or would shrink by less, is kept as it is: a record costs some bytes, too.
_LEAST_BYTES = 4096
_LEAST_GAIN = 1024
_WORTH = 0.97  # of its size; above, reading it slower buys too little
_SAMPLES = 4
_SAMPLE = BLOCK // 4  # elements
# After so many chunks whose differences gained nothing, differences are tried again.
_PATIENCE = 4


@dataclass(slots=True)
class Group:
    """The chunks that were encoded against one base, which is the first of them."""

    base: Chunk
    nbytes: int  # in files, all of them together
    count: int = 1
    wait: int = 0  # so many more chunks are not compared with it

    @property
    def average(self) -> float:
        """What a chunk of it takes, as a share of its raw bytes."""
        return self.nbytes / self.count / self.base.nbytes


@dataclass(frozen=True, slots=True)
class Encoded:
    """The bytes of a chunk as they go into a pack, and what to say of them."""

    encoding: Encoding
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class _Trial:
    """What a sample has shown: `share` is the size after by the size before."""

    share: float
    low: int


class Recoder:
    """Encodes chunks. Each thread needs its own."""

    def __init__(self) -> None:
        self._planes: dict[tuple[int, int], Planes] = {}
        self._undone = np.empty(BLOCK * max(WIDTHS), np.uint8)

    def encode(
        self, raw: memoryview, itemsize: int, base: tuple[Chunk, memoryview] | None, most: float
    ) -> Encoded:
        """The bytes of a chunk as they are best kept.

        Arguments:
            raw: its raw bytes.
            itemsize: of its elements, in bytes.
            base: a chunk of as many raw bytes, and these; None without.
            most: the share of its size that differences to the base may take.

        Raises:
            DamagedError: what was encoded does not decode to the same; the memory of this
                machine cannot be trusted.
        """
        if len(raw) >= _LEAST_BYTES:
            width = itemsize if itemsize in WIDTHS else 8 if itemsize == 16 else 1
            alone = self._trial(raw, width, None)
            if base is not None:
                found = self._trial(raw, width, base[1])
                if found.share < min(most, _WORTH, alone.share):
                    return self._encoded(raw, width, found.low, base)
            if alone.share < _WORTH:
                return self._encoded(raw, width, alone.low, None)
        return _stored(raw)

    def _encoded(
        self, raw: memoryview, width: int, low: int, base: tuple[Chunk, memoryview] | None
    ) -> Encoded:
        planes = self._planes_of(width, low)
        streams: list[bytes] = []
        for block, other in _pairs(raw, None if base is None else base[1], width):
            found = planes.encode(block, other)
            undone = self._undone[: block.nbytes].view(planes.dtype)
            planes.decode([memoryview(stream) for stream in found], other, undone)
            if not np.array_equal(undone, block):
                raise DamagedError(
                    "what was encoded does not decode to the same: check this machine's memory"
                )
            streams += found
        data = joined(streams)
        data += bytes(max(0, math.ceil(len(raw) / MAX_RATIO) - len(data)))
        if len(data) > len(raw) - _LEAST_GAIN:
            return _stored(raw)
        chunk = None if base is None else base[0]
        return Encoded(Encoding(PLANES, len(data), digest.checksum(data), width, low, chunk), data)

    def _trial(self, raw: memoryview, width: int, base: memoryview | None) -> _Trial:
        """Some blocks encoded with every plane on its own."""
        planes = self._planes_of(width, 0)
        sizes, total = np.zeros(width), 0
        for block, other in _samples(raw, base, width):
            sizes += [len(stream) for stream in planes.encode(block, other)]
            total += len(block)
        # Low bytes of which none gains anything are kept together: that is sooner read.
        low = max(low for low in lows(width) if (sizes[:low] >= _WORTH * total).all())
        return _Trial(float(sizes.sum()) / (total * width), low)

    def _planes_of(self, width: int, low: int) -> Planes:
        if (width, low) not in self._planes:
            self._planes[width, low] = Planes(width, low)
        return self._planes[width, low]


def _stored(raw: memoryview) -> Encoded:
    return Encoded(Encoding(STORED, len(raw), digest.checksum(raw)), raw)


def _pairs(
    raw: memoryview, base: memoryview | None, width: int
) -> Iterator[tuple[Array, Array | None]]:
    if base is None:
        for block in blocks(raw, width):
            yield block, None
    else:
        yield from zip(blocks(raw, width), blocks(base, width), strict=True)


def _samples(
    raw: memoryview, base: memoryview | None, width: int
) -> Iterator[tuple[Array, Array | None]]:
    count = len(raw) // width
    for start in sorted({int(s) for s in np.linspace(0, max(0, count - _SAMPLE), _SAMPLES)}):
        span = slice(start * width, min(start + _SAMPLE, count) * width)
        yield from _pairs(raw[span], None if base is None else base[span], width)


def next_group(group: Group | None, chunk: Chunk) -> Group:
    """The group of a place in a leaf, once `chunk` is the newest that was encoded there."""
    assert chunk.encoding is not None
    base = chunk.encoding.base
    if base is None:
        waits = group is not None and group.wait > 0
        return Group(chunk, chunk.stored_bytes, wait=group.wait - 1 if group and waits else 0)
    if group is None or group.base.digest != base.digest:
        return Group(base, base.stored_bytes + chunk.stored_bytes, 2)
    return Group(group.base, group.nbytes + chunk.stored_bytes, group.count + 1)


def patience(group: Group) -> Group:
    """The same group, whose base is not compared with the next few chunks."""
    return Group(group.base, group.nbytes, group.count, _PATIENCE)
