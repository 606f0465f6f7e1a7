"""How far two arrays of one shape are apart, part after part."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from milepost import dtypes
from milepost.dtypes import Array
from milepost.inspection.numbers import (
    Progress,
    as_integers,
    as_numbers,
    blocks,
    is_number,
    norm,
)
from milepost.record import ArrayRecord, chunk_boxes
from milepost.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Distance:
    """How far an array is from one before it, in float64.

    NaN in both arrays at one place is equal there, and so is the same infinity. If only one has
    a NaN, or an infinity, at a place, they are infinitely far apart; the cosine is then that of
    the other places. Strings that differ are infinitely far apart, too.

    Attributes:
        relative_l2: the L2 norm of the difference, divided by that of the array before.
        max_abs: the largest difference of two elements.
        cosine: of the angle between them; NaN where one of them is zero.
        differing: how many elements differ in value. 0 where only bits do: 0.0 and -0.0.
    """

    relative_l2: float
    max_abs: float
    cosine: float
    differing: int


@dataclass(frozen=True, slots=True)
class ArrayPair:
    """An array in one snapshot, and one of the same shape in another.

    Strings have a distance to strings only, and times to those of the same unit.
    """

    a: Snapshot
    name_a: str
    b: Snapshot
    name_b: str

    @property
    def records(self) -> tuple[ArrayRecord, ArrayRecord]:
        found = self.a.record(self.name_a), self.b.record(self.name_b)
        assert isinstance(found[0], ArrayRecord)
        assert isinstance(found[1], ArrayRecord)
        return found[0], found[1]

    @property
    def nbytes(self) -> int:
        return sum(record.nbytes for record in self.records)

    def parts(self) -> Iterator[tuple[Array, Array]]:
        """The same boxes of both, as large as the wider dtype allows."""
        left, right = self.records
        itemsize = max(dtypes.memory_dtype(record.dtype).itemsize for record in (left, right))
        for offset, shape in chunk_boxes(left.shape, itemsize):
            box = tuple((start, start + size) for start, size in zip(offset, shape, strict=True))
            yield (
                self.a.read_box(self.name_a, left, box),
                self.b.read_box(self.name_b, right, box),
            )

    def distance(self, progress: Progress) -> Distance | None:
        """How far they are apart; None if they are equal to the last bit, or have no distance."""
        left, right = (record.dtype for record in self.records)
        if left != right and not (is_number(left) and is_number(right)):
            return None
        # Most arrays are equal, which is told faster than how far they are apart. That needs
        # the equal parts, too: those before the first difference are read once more.
        equal = self._equal_parts(progress) if left == right else 0
        if equal is None:
            return None
        running = _Running()
        for index, (a, b) in enumerate(self.parts()):
            for block_a, block_b in blocks(a, b):
                running.add(block_a, block_b)
            if index >= equal:
                progress(a.nbytes + b.nbytes)
        return running.distance()

    def _equal_parts(self, progress: Progress) -> int | None:
        """How many parts there are before the first that differs; None if none does."""
        for index, (a, b) in enumerate(self.parts()):
            if not _same_bits(a, b):
                return index
            progress(a.nbytes + b.nbytes)
        return None


def _same_bits(a: Array, b: Array) -> bool:
    if not a.dtype.hasobject:
        a, b = (np.frombuffer(dtypes.byte_view(array), np.uint8) for array in (a, b))
    return bool(np.array_equal(a, b))


class _Running:
    """The distance of the blocks so far."""

    def __init__(self) -> None:
        self.norm_a = self.norm_b = self.norm_difference = 0.0
        self.dot = self.max_abs = 0.0
        self.differing = self.apart = 0  # apart: where one is NaN or infinite, the other not so

    def add(self, a: Array, b: Array) -> None:
        if a.dtype.hasobject:
            self.apart += int(np.count_nonzero(a != b))
            return
        with np.errstate(all="ignore"):  # beyond float64's range the result is infinite, or NaN
            self._add(as_numbers(a), as_numbers(b), _whole_difference(a, b))

    def _add(self, a: Array, b: Array, difference: Array | None) -> None:
        if difference is None:
            difference = np.abs(a - b)
        finite = np.isfinite(a) & np.isfinite(b)
        if not finite.all():
            same = finite | (a == b) | (np.isnan(a) & np.isnan(b))
            self.apart += int(np.count_nonzero(~same))
            a, b, difference = a[finite], b[finite], difference[finite]
        self.norm_a = math.hypot(self.norm_a, norm(a))
        self.norm_b = math.hypot(self.norm_b, norm(b))
        self.norm_difference = math.hypot(self.norm_difference, norm(difference))
        self.dot += float(np.vdot(a, b).real)
        self.max_abs = max(self.max_abs, float(difference.max(initial=0)))
        self.differing += int(np.count_nonzero(difference))

    def distance(self) -> Distance:
        differing = self.differing + self.apart
        if self.apart:
            return Distance(math.inf, math.inf, self._cosine(), differing)
        relative = _ratio(self.norm_difference, self.norm_a)
        return Distance(relative, self.max_abs, self._cosine(), differing)

    def _cosine(self) -> float:
        product = self.norm_a * self.norm_b
        if product == 0 or not math.isfinite(product):
            return math.nan
        return max(-1.0, min(1.0, self.dot / product))


def _ratio(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole else math.inf


def _whole_difference(a: Array, b: Array) -> Array | None:
    """Of 64-bit integers, or times: what float64 would round is exact until it is known."""
    left, right = as_integers(a), as_integers(b)
    if left is None or right is None or left.dtype != right.dtype or left.dtype.itemsize < 8:
        return None
    gap = np.maximum(left, right).view(np.uint64) - np.minimum(left, right).view(np.uint64)
    return gap.astype(np.float64)
