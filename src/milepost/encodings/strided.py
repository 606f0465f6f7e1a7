"""Boxes of numbers that lie in a file at regular distances, but in another order than C's.

A box is read in few large pieces where its numbers lie close, and run by run where they do
not, so that neither the number of reads nor the memory grows with the whole array.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from milepost.dtypes import Array
from milepost.source import ByteSource, read_exactly

# What is read at once, of which only a part may be wanted.
_PIECE = 4 << 20
# A gap of so many bytes costs more to read than a second read costs.
_GAP = 16 << 10


def c_strides(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """The distances, in bytes, between neighbours along each axis, in C order."""
    return tuple(math.prod(shape[axis + 1 :]) * itemsize for axis in range(len(shape)))


def fortran_strides(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """The same, in Fortran's order: the first axis is the closest."""
    return c_strides(shape[::-1], itemsize)[::-1]


def read_strided(
    source: ByteSource,
    position: int,
    dtype: np.dtype[Any],
    strides: Sequence[int],
    box: Sequence[tuple[int, int]],
) -> Array:
    """The part inside `box` of an array whose first number lies at `position`.

    `dtype` is that of the file, of either byte order; the result has it in native order.

    Raises:
        DamagedError: the file ends before.
    """
    sizes = [max(0, stop - start) for start, stop in box]
    result = np.empty(sizes, dtype.newbyteorder("="))
    if result.size:
        position += sum(start * stride for (start, _), stride in zip(box, strides, strict=True))
        _fill(source, result, position, dtype, strides)
    return result


def _fill(
    source: ByteSource, target: Array, position: int, dtype: np.dtype[Any], strides: Sequence[int]
) -> None:
    """Fill `target`, the neighbours of whose numbers lie `strides` apart in the file."""
    lengths = [(n - 1) * stride for n, stride in zip(target.shape, strides, strict=True)]
    span = sum(lengths) + dtype.itemsize
    axis = max(range(target.ndim), key=lengths.__getitem__, default=0)
    stride = strides[axis] if target.ndim else 0
    inner = span - lengths[axis] if target.ndim else span
    step = 1 if inner + _GAP < stride else max(1, _PIECE // max(1, stride))
    if not target.ndim or step >= target.shape[axis] or (span <= _PIECE and step > 1):
        data = read_exactly(source, position, span)
        target[...] = np.ndarray(target.shape, dtype, data, 0, tuple(strides))
        return
    before = (slice(None),) * axis
    for start in range(0, target.shape[axis], step):
        part = target[(*before, slice(start, start + step))]
        _fill(source, part, position + start * stride, dtype, strides)
