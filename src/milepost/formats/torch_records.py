"""From PyTorch's tensors, as they lie in their storages, to records.

A tensor that is contiguous lies in the file as it is. Any other is read by its strides: a
transposed one, a part of a larger one, one of a big-endian machine, one that a compressed
archive has. A stride of 0 can make a tensor much larger than its storage. What is more than
`_MAX_REPEATS` times as large, and over `_MAX_REPEATED_BYTES`, cannot be read: opening is
not stopped by it, reading it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from milepost import dtypes
from milepost.dtypes import Array
from milepost.encodings.strided import c_strides, read_strided
from milepost.errors import DamagedError, UntrustedError
from milepost.formats.arrays import stored_array
from milepost.formats.torch_tree import Leaf, Tree
from milepost.formats.torch_values import COMPLEX32, DTYPES, Held, Storage, Tensor, itemsize
from milepost.record import Box, ForeignArray, PlainRecord, Record
from milepost.source import ByteSource

_MAX_REPEATS, _MAX_REPEATED_BYTES = 16, 64 << 20
# Beyond this many chunks in all, which no real model reaches, an array is not cut into any.
_MAX_CHUNKS, _CHUNK = 100_000, 8 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a storage lies: in `source` from `offset` on.

    `position` is where in the file itself, if it is stored there as it is.
    """

    source: ByteSource
    offset: int
    size: int
    position: int | None


@dataclass(slots=True)
class Records:
    """Makes the records of a tree's leaves."""

    file: str
    place: Callable[[Storage], Place]
    byte_order: str = "<"
    _chunks: int = 0
    _known: dict[tuple[object, ...], Record] = field(default_factory=dict)

    def of(self, tree: Tree) -> dict[str, Record]:
        """The record of every leaf.

        Raises:
            DamagedError: one lies outside of its storage, or its storage of the file.
        """
        return {name: self._record(name, leaf) for name, leaf in tree.leaves.items()}

    def _record(self, name: str, leaf: Leaf) -> Record:
        if isinstance(leaf, Held):
            return held(leaf.array)
        if not isinstance(leaf, Tensor):
            return PlainRecord(leaf)
        place = (leaf.storage.key, leaf.offset, leaf.size, leaf.stride)
        key = (*place, leaf.dtype, leaf.kind, leaf.conj, leaf.neg)
        if key not in self._known:  # tied tensors have one record
            self._known[key] = self._tensor(name, leaf)
        return self._known[key]

    def _tensor(self, name: str, tensor: Tensor) -> Record:
        place = self._checked_place(name, tensor)
        dtype = dtypes.numpy_dtype(DTYPES[tensor.dtype])
        shape = (*tensor.size, 2) if tensor.dtype == COMPLEX32 else tensor.size
        step = itemsize(tensor.dtype)
        strides = [stride * step for stride in tensor.stride]
        strides += [dtype.itemsize] if tensor.dtype == COMPLEX32 else []
        start = tensor.offset * step
        nbytes = math.prod(shape) * dtype.itemsize
        plain = not (
            tensor.conj or tensor.neg or tensor.kind or tensor.dtype != DTYPES[tensor.dtype]
        )
        ordered = _is_contiguous(shape, strides, dtype.itemsize)
        native = self.byte_order == "<" or dtype.itemsize == 1
        self._chunks += nbytes // _CHUNK
        if (
            plain
            and ordered
            and native
            and place.position is not None
            and self._chunks <= _MAX_CHUNKS
        ):
            return stored_array(DTYPES[tensor.dtype], shape, place.position + start)
        limit = max(_MAX_REPEATED_BYTES, _MAX_REPEATS * tensor.storage.nbytes)
        if nbytes > limit:
            read = _refusal(f"{self.file}, leaf {name!r:.200}", nbytes, tensor.storage.nbytes)
        else:
            strides = list(c_strides(shape, dtype.itemsize)) if ordered else strides
            wanted = dtype.newbyteorder("<" if self.byte_order == "<" else ">")
            read = _reader(place, start, wanted, tuple(strides), tensor)
        kind = tensor.kind or ("" if tensor.dtype == DTYPES[tensor.dtype] else tensor.dtype)
        return ForeignArray(DTYPES[tensor.dtype], shape, (), read, kind)

    def _checked_place(self, name: str, tensor: Tensor) -> Place:
        place = self.place(tensor.storage)
        label = f"{self.file}, leaf {name!r:.200}"
        if tensor.storage.nbytes > place.size:
            raise DamagedError(
                f"{label}: its storage has {place.size} bytes, expected {tensor.storage.nbytes}"
            )
        end = tensor.offset
        if 0 not in tensor.size:
            end += 1 + sum(
                (n - 1) * stride for n, stride in zip(tensor.size, tensor.stride, strict=True)
            )
        if end * itemsize(tensor.dtype) > tensor.storage.nbytes:
            raise DamagedError(
                f"{label} would end at element {end}, its storage has {tensor.storage.nbytes} bytes"
            )
        return place


def held(array: Array) -> ForeignArray:
    """The record of an array in memory."""

    def read(box: Box) -> Array:
        part = array[tuple(slice(start, max(start, stop)) for start, stop in box)]
        return np.array(part, array.dtype.newbyteorder("="), order="C")

    return ForeignArray(dtypes.dtype_name(array.dtype), array.shape, (), read)


def _is_contiguous(shape: tuple[int, ...], strides: list[int], item: int) -> bool:
    """Whether the elements follow one another; an axis of one element may have any stride."""
    if 0 in shape:
        return True
    wanted = c_strides(shape, item)
    return all(n == 1 or a == b for n, a, b in zip(shape, strides, wanted, strict=True))


def _reader(
    place: Place, start: int, dtype: np.dtype[Any], strides: tuple[int, ...], tensor: Tensor
) -> Callable[[Box], Array]:
    def read(box: Box) -> Array:
        values = read_strided(place.source, place.offset + start, dtype, strides, box)
        if tensor.conj:
            np.conjugate(values, out=values)
        if tensor.neg:
            np.negative(values, out=values)
        return values

    return read


def _refusal(label: str, nbytes: int, stored: int) -> Callable[[Box], Array]:
    def read(box: Box) -> Array:
        raise UntrustedError(
            f"{label} repeats {stored:,} bytes to {nbytes:,}: save it without expand(), as "
            "tensor.clone()"
        )

    return read
