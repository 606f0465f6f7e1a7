"""Records of arrays that lie in a file as plain numbers, for whichever format says where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from milepost import dtypes
from milepost.chunk import Chunk
from milepost.dtypes import Array
from milepost.encodings.strided import read_strided
from milepost.record import ArrayRecord, Box, ForeignArray, chunk_boxes
from milepost.source import ByteSource


def stored_array(dtype: str, shape: tuple[int, ...], position: int, file: int = 0) -> ArrayRecord:
    """An array whose little-endian bytes lie at `position` of a file, in C order.

    It is in chunks, so that a slice need not read all of it.
    """
    itemsize = dtypes.numpy_dtype(dtype).itemsize
    chunks = []
    for offset, part in chunk_boxes(shape, itemsize):
        nbytes = math.prod(part) * itemsize
        chunks.append(Chunk(offset, part, None, None, file, position, nbytes))
        position += nbytes
    return ArrayRecord(dtype, shape, tuple(chunks))


def strided_array(
    source: ByteSource,
    position: int,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    strides: Sequence[int],
    *,
    kind: str = "",
) -> ForeignArray:
    """An array whose numbers lie in another order, or are big-endian.

    `dtype` is that of the file, and `strides` are in bytes; what they span must lie in it.
    """

    def read(box: Box) -> Array:
        return read_strided(source, position, dtype, strides, box)

    return ForeignArray(dtypes.dtype_name(dtype), shape, (), read, kind)
