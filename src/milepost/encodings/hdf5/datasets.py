"""Datasets: an array's type, its shape, and any part of its elements."""

from __future__ import annotations

import itertools
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from milepost.dtypes import Array
from milepost.encodings.hdf5.datatypes import Datatype, decode, read_datatype
from milepost.encodings.hdf5.filters import MAX_RATIO, Filter, read_filters, undo
from milepost.encodings.hdf5.heaps import GlobalHeap
from milepost.encodings.hdf5.image import Cursor, Image
from milepost.encodings.hdf5.layouts import Layout, Stored, read_layout, stored_chunks
from milepost.encodings.hdf5.objects import (
    EXTERNAL,
    FILL,
    FILL_OLD,
    FILTERS,
    LAYOUT,
    SPACE,
    TYPE,
    Message,
    resolved,
)
from milepost.encodings.strided import c_strides, read_strided
from milepost.errors import DamagedError, UntrustedError
from milepost.limits import MAX_RANK, is_shape
from milepost.record import Box
from milepost.source import read_exactly

# What a file may have of elements that nobody wrote, and which are all the same: an array of
# them is not worth a file, and a huge one is a trap.
_MOST_FILLED = 64 << 20
_KEPT_CHUNKS = 64 << 20  # bytes of chunks that are read again


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset.

    Attributes:
        shape: of its elements; None of one that holds nothing at all.
        position: where all of them lie in the file in C order; None if they do not.
    """

    image: Image
    datatype: Datatype
    shape: tuple[int, ...] | None
    layout: Layout
    filters: tuple[Filter, ...]
    fill: bytes
    _chunks: _Chunks = field(default_factory=lambda: _Chunks(), compare=False)

    @property
    def position(self) -> int | None:
        if self.layout.chunk is not None or self.layout.address is None:
            return None
        return self.image.base + self.layout.address

    @property
    def is_chunked(self) -> bool:
        return self.layout.chunk is not None

    def read(self, box: Box, member: tuple[int, Datatype] | None = None) -> Array:
        """The elements inside a box, or a member of each with its place in them.

        Raises:
            DamagedError, UntrustedError: they are not what they are said to be.
        """
        start, datatype = member or (0, self.datatype)
        raw = self._raw(box)[..., start : start + datatype.size]
        heap = GlobalHeap(self.image.for_elements())
        return decode(raw, datatype, heap.string)

    def _raw(self, box: Box) -> Array:
        """The bytes of elements, along one more axis."""
        size = self.datatype.size
        sizes = [max(0, stop - start) for start, stop in box]
        position = self.position
        if position is not None:
            raw = np.dtype((np.void, size))
            strides = c_strides(self.shape or (), size)
            found = read_strided(self.image.source, position, raw, strides, box)
            return found.reshape(-1).view(np.uint8).reshape(*sizes, size)
        result = np.empty((*sizes, size), np.uint8)
        result[...] = np.frombuffer(self.fill.ljust(size, b"\0"), np.uint8)
        if self.layout.chunk is not None and result.size:
            self._fill_from_chunks(result, box, self.layout.chunk)
        return result

    def _fill_from_chunks(self, result: Array, box: Box, chunk: tuple[int, ...]) -> None:
        index = self._chunks.index(self)
        ranges = [
            range(start // part, -(-stop // part))
            for (start, stop), part in zip(box, chunk, strict=True)
        ]
        if math.prod(map(len, ranges)) <= len(index):
            numbers = [number for number in itertools.product(*ranges) if number in index]
        else:  # most of them were never written
            numbers = [
                number
                for number in sorted(index)
                if all(n in wanted for n, wanted in zip(number, ranges, strict=True))
            ]
        for number in numbers:
            data = self._chunks.read(self, number, index[number])
            corner = [n * part for n, part in zip(number, chunk, strict=True)]
            target, source = [], []
            for (start, stop), low, part in zip(box, corner, chunk, strict=True):
                first, last = max(start, low), min(stop, low + part)
                target.append(slice(first - start, last - start))
                source.append(slice(first - low, last - low))
            result[tuple(target)] = data[tuple(source)]


class _Chunks:
    """The index of a dataset's chunks, read once it is needed, and the last of its chunks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._index: dict[tuple[int, ...], Stored] | None = None
        self._kept: OrderedDict[tuple[int, ...], Array] = OrderedDict()

    def index(self, dataset: Dataset) -> dict[tuple[int, ...], Stored]:
        with self._lock:
            if self._index is None:
                own = dataset.image.for_elements()
                shape = dataset.shape or ()
                filtered = bool(dataset.filters)
                found = stored_chunks(own, dataset.layout, shape, filtered=filtered)
                declared = math.prod(shape) * dataset.datatype.size
                _refuse_giant(own, declared, sum(stored.size for stored in found.values()))
                self._index = found
            return self._index

    def read(self, dataset: Dataset, number: tuple[int, ...], stored: Stored) -> Array:
        """A chunk, its filters undone: the bytes of its elements along one more axis."""
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        chunk, item = dataset.layout.chunk or (), dataset.datatype.size
        size = math.prod(chunk) * item
        image = dataset.image
        if size > (stored.size + 1) * MAX_RATIO:
            raise image.damaged(f"a chunk of {stored.size} bytes claims to become {size}")
        data = bytes(read_exactly(image.source, image.base + stored.address, stored.size))
        try:
            data = undo(dataset.filters, stored.mask, data, size, item)
        except ValueError as error:
            raise DamagedError(
                f"{image.source.name}: the chunk {number} at byte {stored.address} is damaged: "
                f"{error}; restore it from a backup"
            ) from None
        result = np.frombuffer(data, np.uint8).reshape(*chunk, item)
        with self._lock:
            self._kept[number] = result
            kept = sum(array.nbytes for array in self._kept.values())
            while kept > _KEPT_CHUNKS and len(self._kept) > 1:
                kept -= self._kept.popitem(last=False)[1].nbytes
        return result


def is_dataset(messages: list[Message]) -> bool:
    return any(message.kind == LAYOUT for message in messages)


def read_dataset(image: Image, messages: list[Message]) -> Dataset:
    """The dataset that a header describes, checked against the file.

    Raises:
        DamagedError: it is not valid, or does not lie in the file.
        UntrustedError: its elements lie in other files, or would be far more than the file has.
    """
    found = {message.kind: message for message in messages}
    if EXTERNAL in found:
        raise UntrustedError(
            f"{image.source.name} has a dataset whose elements lie in other files: milepost never "
            "opens those; write the values themselves"
        )
    if not found.keys() >= {SPACE, TYPE, LAYOUT}:
        raise image.damaged("a dataset without a shape, a type or a place")
    datatype = read_datatype(resolved(image, found[TYPE]))
    shape = read_shape(resolved(image, found[SPACE]))
    message = found[LAYOUT]
    dataset = Dataset(
        image,
        datatype,
        shape,
        read_layout(message.cursor(image), message.address),
        read_filters(resolved(image, found[FILTERS])) if FILTERS in found else (),
        _fill_value(image, found, datatype.size),
    )
    _check(dataset)
    return dataset


def read_shape(cursor: Cursor) -> tuple[int, ...] | None:
    """A shape, or None where there is no element at all."""
    image = cursor.image
    version = cursor.version("a shape", (1, 2))
    rank, _ = cursor.uints(2, 1)
    kind = cursor.uint(1)
    cursor.skip(4 if version == 1 else 0)
    if rank > min(MAX_RANK, 32):
        raise image.damaged(f"a shape of {rank} axes")
    shape = [cursor.length() for _ in range(rank)]
    if version == 2 and kind == 2:
        return None
    if not is_shape(shape):
        raise image.damaged(f"the shape {shape} is too large for any file")
    return tuple(shape)


def _fill_value(image: Image, found: dict[int, Message], size: int) -> bytes:
    """What stands for elements that were never written; zeros, if nothing does."""
    if FILL in found and not found[FILL].shared:
        cursor = found[FILL].cursor(image)
        version = cursor.version("a fill value", (1, 2, 3))
        flags = cursor.uint(1)
        if version < 3:
            cursor.skip(1)
            flags = 0x20 if cursor.uint(1) or version == 1 else 0
        value = cursor.take(cursor.uint(4)) if flags & 0x20 and cursor.left >= 4 else b""
    elif FILL_OLD in found and not found[FILL_OLD].shared:
        cursor = found[FILL_OLD].cursor(image)
        value = cursor.take(cursor.uint(4))
    else:
        value = b""
    return value if len(value) == size else b""


def _check(dataset: Dataset) -> None:
    """Whether a dataset lies in its file: nothing of it is allocated before."""
    image, layout, size = dataset.image, dataset.layout, dataset.datatype.size
    shape = dataset.shape or ()
    declared = 0 if dataset.shape is None else math.prod(shape) * size
    if not is_shape([*shape, size]):
        raise image.damaged(f"the shape {list(shape)} of elements of {size} bytes is too large")
    if layout.chunk is not None:
        if len(layout.chunk) != len(shape) or 0 in layout.chunk or layout.element != size:
            raise image.damaged(f"chunks of {list(layout.chunk)} in the shape {list(shape)}")
        _refuse_giant(image, declared, image.source.size)
        _refuse_giant(image, math.prod(layout.chunk) * size, image.source.size)
        return
    if dataset.filters:
        raise image.damaged("filters of something else than chunks")
    if layout.address is None:
        _refuse_giant(image, declared, 0)
        return
    if layout.size is not None and layout.size < declared:
        raise image.damaged(f"a dataset of {declared} bytes lies in {layout.size}")
    end = image.base + layout.address + declared
    if end > image.source.size:
        raise image.damaged(
            f"a dataset would end at byte {end:,}, the file has {image.source.size:,}: it is cut "
            "short, restore it from a backup"
        )


def _refuse_giant(image: Image, declared: int, stored: int) -> None:
    if declared > _MOST_FILLED + stored * MAX_RATIO:
        raise UntrustedError(
            f"{image.source.name} has a dataset that claims {declared:,} bytes, of which it "
            f"stores {stored:,} at most: reading it would only fill the memory"
        )
