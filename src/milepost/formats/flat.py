"""Boxes of arrays that a format decodes element after element, in C order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import as_strided

from milepost import dtypes
from milepost.dtypes import Array
from milepost.encodings.strided import c_strides
from milepost.record import Box, ForeignArray
from milepost.source import ByteSource, read_exactly

# The elements from the first index up to the second, as if the array were flat.
Flat: TypeAlias = Callable[[int, int], Array]

# What is decoded at once, of which only a part may be wanted.
_PIECE = 4 << 20


def flat_array(
    dtype: str, shape: tuple[int, ...], flat: Flat, kind: str = "", stored: int | None = None
) -> ForeignArray:
    """An array whose elements `flat` decodes; it is asked for a few megabytes at a time."""
    memory = dtypes.memory_dtype(dtype)

    def read(box: Box) -> Array:
        result = np.empty([max(0, stop - start) for start, stop in box], memory)
        if result.size:
            _fill(result, shape, [start for start, _ in box], flat)
        return result

    return ForeignArray(dtype, shape, (), read, kind, stored)


def _fill(target: Array, shape: tuple[int, ...], corner: list[int], flat: Flat) -> None:
    """Fill `target` with the box of its shape at `corner`: in one piece, or each half of it."""
    steps = c_strides(shape, 1)
    first = sum(c * step for c, step in zip(corner, steps, strict=True))
    last = first + sum((n - 1) * step for n, step in zip(target.shape, steps, strict=True))
    if (last + 1 - first) * target.itemsize <= _PIECE or target.size == 1:
        data = flat(first, last + 1)
        if not data.dtype.hasobject:  # as mere bytes: NumPy knows no strides of ml_dtypes' dtypes
            data, target = data.view(f"V{data.itemsize}"), target.view(f"V{data.itemsize}")
        target[...] = as_strided(data, target.shape, [step * data.itemsize for step in steps])
        return
    axis = next(axis for axis, n in enumerate(target.shape) if n > 1)
    half = target.shape[axis] // 2
    before = (slice(None),) * axis
    moved = [c + half * (i == axis) for i, c in enumerate(corner)]
    _fill(target[(*before, slice(half))], shape, corner, flat)
    _fill(target[(*before, slice(half, None))], shape, moved, flat)


def packed(dtype: str, bits: int, data: Callable[[int, int], Any]) -> Flat:
    """Elements of 2, 4 or 6 bits, the first in the lowest ones, of bytes that `data` reads."""
    group = 3 if bits == 6 else 1  # the bytes after which an element begins with one again
    count = group * 8 // bits
    shifts = np.arange(count, dtype=np.uint32) * np.uint32(bits)

    def flat(first: int, stop: int) -> Array:
        begin, end = first // count, -(-stop // count)
        raw = np.zeros((end - begin) * group, np.uint8)
        found = np.frombuffer(data(begin * group, min(end * group, -(-stop * bits // 8))), np.uint8)
        raw[: len(found)] = found
        words = np.zeros(end - begin, np.uint32)
        for place in range(group):
            words |= raw[place::group].astype(np.uint32) << np.uint32(8 * place)
        values = (words[:, None] >> shifts) & np.uint32((1 << bits) - 1)
        skipped = first - begin * count
        chosen = values.astype(np.uint8).reshape(-1)[skipped : skipped + stop - first]
        return chosen.view(dtypes.numpy_dtype(dtype))

    return flat


def window(source: ByteSource, position: int) -> Callable[[int, int], bytearray]:
    """A reader of the bytes from one offset up to another, both counted from `position`."""
    return lambda first, stop: read_exactly(source, position + first, stop - first)


def nbytes_of(shape: tuple[int, ...], bits: int) -> int:
    """The bytes that an array of elements of so many bits takes, packed."""
    return -(-math.prod(shape) * bits // 8)


def as_dtype(data: bytes | bytearray, dtype: str) -> Array:
    """Little-endian bytes as elements."""
    array: Array = np.frombuffer(data, dtypes.numpy_dtype(dtype).newbyteorder("<"))
    return array.astype(array.dtype.newbyteorder("="), copy=False)
