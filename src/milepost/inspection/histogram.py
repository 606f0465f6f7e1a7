"""A histogram in one pass, whatever the range turns out to be.

The width of the bins is a power of two, and their edges are multiples of it. So two
neighbours are exactly one bin of the next width: when a value falls outside of what has
been counted so far, bins are merged, and what was counted stays exact. The result depends
on the values only, not on their order.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from milepost.dtypes import Array

_MOST_BINS = 16
# Such widths and their reciprocals are all floats.
_SMALLEST_EXPONENT = -1022
# Every index of a bin is a whole number in float64.
_MANTISSA_BITS = 53
_TINIEST = 2.0**-1074


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values lie in each bin: bin `i` is from `edges[i]` to below `edges[i + 1]`.

    There are 16 bins at most, all of one width, which is a power of two; 0 is never inside one.
    An edge beyond float64's range, as of values near its largest, is infinite.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Bins:
    """A histogram that grows: `add` values, then `histogram`."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._low, self._high = math.inf, -math.inf
        self._exponent = _SMALLEST_EXPONENT  # of the width

    def add(self, values: Array, low: float, high: float) -> None:
        """Count finite values, one or more, whose minimum and maximum are `low` and `high`."""
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._widen(_exponent(self._low, self._high))
        first = int(_index(low, self._exponent))
        found = np.bincount((_index(values, self._exponent) - first).astype(np.intp))
        for index, count in enumerate(found.tolist(), first):
            self._counts[index] += count

    def _widen(self, exponent: int) -> None:
        merged: Counter[int] = Counter()
        for index, count in self._counts.items():
            merged[index >> (exponent - self._exponent)] += count
        self._counts, self._exponent = merged, exponent

    def histogram(self) -> Histogram | None:
        """What was counted; None if nothing was."""
        if not self._counts:
            return None
        span = range(min(self._counts), max(self._counts) + 1)
        with np.errstate(over="ignore"):  # the outermost may be 2**1024
            edges = np.ldexp(np.arange(span.start, span.stop + 1, dtype=np.float64), self._exponent)
        return Histogram(tuple(edges.tolist()), tuple(self._counts[index] for index in span))


def _exponent(low: float, high: float) -> int:
    """That of the smallest width whose bins are few enough, and have exact indices."""
    exponent = _SMALLEST_EXPONENT
    # Half the span, as the whole may be infinite; 0 has no exponent.
    for value, bits in ((max(-low, high), _MANTISSA_BITS), (high / 2 - low / 2, 5)):
        if value:
            exponent = max(exponent, math.frexp(value)[1] - bits)
    while _bins(low, high, exponent) > _MOST_BINS:
        exponent += 1
    return exponent


def _bins(low: float, high: float, exponent: int) -> int:
    return int(_index(high, exponent)) - int(_index(low, exponent)) + 1


def _index(values: Any, exponent: int) -> Any:
    """The index of the bin of each value, or of one, as a float that is whole."""
    scaled = values * math.ldexp(1.0, -exponent)
    if exponent > 0:  # else a value below 0 cannot become 0 by underflow
        scaled = np.where(values < 0, np.minimum(scaled, -_TINIEST), scaled)
    return np.floor(scaled)
