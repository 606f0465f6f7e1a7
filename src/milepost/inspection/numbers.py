"""Arrays of any dtype as numbers to compute with, block after block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from milepost import dtypes
from milepost.dtypes import Array

# Told how many bytes more have been read, so that somebody who waits sees how far it is.
Progress: TypeAlias = Callable[[int], None]

# Few enough that a block and what is computed of it stay in a core's cache.
_BLOCK = 1 << 16


def blocks(*parts: Array) -> Iterator[tuple[Array, ...]]:
    """The elements of arrays of one shape, in C order: as many of each at a time."""
    flat = [np.ascontiguousarray(part).reshape(-1) for part in parts]
    for start in range(0, flat[0].size, _BLOCK):
        yield tuple(array[start : start + _BLOCK] for array in flat)


def is_time(dtype: str) -> bool:
    """Whether the dtype of this name is of dates or durations."""
    return dtype.startswith(("datetime64", "timedelta64"))


def is_whole(dtype: str) -> bool:
    """Whether the dtype of this name is of integers or booleans."""
    return dtype.startswith(("int", "uint", "bool"))


def is_number(dtype: str) -> bool:
    """Whether arrays of this dtype can be measured against those of another."""
    return dtype != dtypes.STRING and not is_time(dtype)


def as_numbers(block: Array) -> Array:
    """A block as float64 or complex128: exact, but for integers above 2**53 and 80-bit floats.

    Times become the number of their units; a time that is none (NaT) becomes NaN.
    """
    kind = block.dtype.kind
    if kind in "mM":
        return np.where(np.isnat(block), np.nan, block.view(np.int64).astype(np.float64))
    # An 80-bit float beyond float64's range becomes infinite.
    with np.errstate(over="ignore", invalid="ignore"):
        return block.astype(np.complex128 if kind == "c" else np.float64)


def as_integers(block: Array) -> Array | None:
    """A block as the integers that it holds, or counts its times with; None if it has none."""
    if block.dtype.kind in "mM":
        return block.view(np.int64)
    return block if block.dtype.kind in "iu" else None


def norm(values: Array) -> float:
    """The L2 norm, without overflow or underflow on the way."""
    squares = float(np.vdot(values, values).real)
    if 1e-280 < squares < 1e280:
        return math.sqrt(squares)
    largest = float(np.abs(values).max(initial=0))
    if largest == 0 or not math.isfinite(largest):
        return largest
    # By a power of two, so that nothing is rounded; in two steps, as 2**1074 is no float.
    half = math.ldexp(1.0, -(math.frexp(largest)[1] // 2))
    scaled = values * half * half
    root = math.sqrt(float(np.vdot(scaled, scaled).real))
    return largest * (root / (largest * half * half))
