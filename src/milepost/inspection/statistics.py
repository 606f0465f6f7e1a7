"""Statistics of one array, in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from milepost import dtypes
from milepost.dtypes import Array
from milepost.errors import UsageError
from milepost.inspection.histogram import Bins, Histogram
from milepost.inspection.numbers import (
    Progress,
    as_integers,
    as_numbers,
    blocks,
    is_time,
    is_whole,
    norm,
)
from milepost.record import ArrayRecord
from milepost.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class LeafStatistics:
    """What an array holds. Complex numbers count by their magnitude.

    NaN and infinities are counted, and left out of all that follows. What does not apply is
    None: everything if no finite value is left, the mean and so on of times, all of strings.

    Attributes:
        count: how many elements there are.
        zeros: how many are 0, of either sign.
        nan: how many are NaN, or a time that is none (NaT).
        infinite: how many are infinite.
        min: the smallest: exact integers of an integer dtype, a text of times.
        max: the largest.
        mean: their mean.
        std: their standard deviation, dividing by the count.
        histogram: how they are spread.
    """

    count: int
    zeros: int | None = None
    nan: int | None = None
    infinite: int | None = None
    min: int | float | str | None = None
    max: int | float | str | None = None
    mean: float | None = None
    std: float | None = None
    histogram: Histogram | None = None


def leaf_statistics(
    snapshot: Snapshot, name: str, *, progress: Progress | None = None
) -> LeafStatistics:
    """Minimum, maximum, mean, deviation, zeros, NaN, infinities and a histogram of an array.

    The array is read once, part after part, in memory that does not grow with it.

    Arguments:
        snapshot: where it lies.
        name: its leaf.
        progress: is told, after each part, how many bytes more have been read.

    Raises:
        LeafNotFoundError: there is no such leaf.
        UsageError: the leaf is a plain value.
        DamagedError: its bytes are not what was saved.
    """
    record = snapshot.record(name)
    if not isinstance(record, ArrayRecord):
        raise UsageError(f"{snapshot.name}, leaf {name!r}: a plain value has no statistics")
    if record.dtype == dtypes.STRING:
        return LeafStatistics(math.prod(record.shape))
    running = _Running()
    for _, part in snapshot.read_parts(name):
        for (block,) in blocks(part):
            running.add(block)
        if progress is not None:
            progress(part.nbytes)
    return running.statistics(record.dtype)


class _Running:
    """Statistics of the blocks so far."""

    def __init__(self) -> None:
        self.count = self.zeros = self.nan = self.infinite = 0
        self.extremes: list[int | float] = []  # none yet, or the minimum and the maximum
        self.moments = _Moments()
        self.bins = Bins()

    def add(self, block: Array) -> None:
        self.count += block.size
        values = as_numbers(block)
        if values.dtype.kind == "c":
            values = np.abs(values)
        exact = as_integers(block)
        exact = values if exact is None else exact
        finite = np.isfinite(values)
        if not finite.all():
            nan = int(np.count_nonzero(np.isnan(values)))
            self.nan += nan
            self.infinite += int(np.count_nonzero(~finite)) - nan
            values, exact = values[finite], exact[finite]
        if not values.size:
            return
        self.zeros += int(values.size - np.count_nonzero(values))
        found = [exact.min().item() + 0, exact.max().item() + 0]  # of -0.0 it makes 0.0
        self.extremes = [min(self.extremes + found), max(self.extremes + found)]
        self.moments.add(values)
        self.bins.add(values, float(found[0]), float(found[1]))

    def statistics(self, dtype: str) -> LeafStatistics:
        found = LeafStatistics(self.count, self.zeros, self.nan, self.infinite)
        if not self.extremes:
            return found
        low, high = self.extremes
        counts = (found.count, found.zeros, found.nan, found.infinite)
        if is_time(dtype):
            first, last = np.array([low, high], np.int64).view(dtypes.numpy_dtype(dtype))
            return LeafStatistics(*counts, str(first), str(last))
        if is_whole(dtype):
            low, high = int(low), int(high)
        mean, std = self.moments.mean, self.moments.std
        return LeafStatistics(*counts, low, high, mean, std, self.bins.histogram())


class _Moments:
    """Mean and standard deviation, block by block: Chan, Golub and LeVeque's way to merge.

    http://i.stanford.edu/pub/cstr/reports/cs/tr/79/773/CS-TR-79-773.pdf
    The root of the squared deviations is kept, so that it neither over- nor underflows.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._deviation = 0.0

    def add(self, values: Array) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # sums beyond float64's range
            mean = float(np.mean(values))
            deviation = norm(values - mean)
        total = self.count + values.size
        step = mean - self.mean
        between = abs(step) * math.sqrt(self.count * (values.size / total))
        self._deviation = math.hypot(self._deviation, deviation, between)
        self.mean += step * (values.size / total)
        self.count = total

    @property
    def std(self) -> float:
        return self._deviation / math.sqrt(self.count)
