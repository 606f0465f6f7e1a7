"""The records of a TensorFlow checkpoint: each entry of its index, checked against its data."""

from __future__ import annotations

import math
import os
import stat
from dataclasses import dataclass, field

import numpy as np

from milepost import dtypes
from milepost.dtypes import Array
from milepost.errors import DamagedError, PathNotFoundError, UntrustedError, VersionError
from milepost.formats.flat import flat_array
from milepost.formats.names import text
from milepost.formats.tensorflow_bundle import Bundle, Entry, Extents, slice_key
from milepost.formats.tensorflow_tensors import Numbers, Strings
from milepost.limits import is_shape, shown
from milepost.record import ArrayRecord, Box, ForeignArray, PlainRecord, Record
from milepost.source import ByteSource
from milepost.state import LeafSpec
from milepost.storage.local import FileSource, open_file

# https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/framework/types.proto
DTYPES = {
    **{1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8"},
    **{7: dtypes.STRING, 8: "complex64", 9: "int64", 10: "bool", 11: "int8", 12: "uint8"},
    **{13: "int32", 14: "bfloat16", 15: "int16", 16: "uint16", 17: "uint16", 18: "complex128"},
    **{19: "float16", 22: "uint32", 23: "uint64", 24: "float8_e5m2", 25: "float8_e4m3fn"},
    **{26: "float8_e4m3fnuz", 27: "float8_e4m3b11fnuz", 28: "float8_e5m2fnuz", 29: "int4"},
    **{30: "uint4", 31: "int2", 32: "uint2", 33: "float4_e2m1fn"},
}
# Quantised numbers are those of these dtypes to NumPy.
_KINDS = {11: "qint8", 12: "quint8", 13: "qint32", 15: "qint16", 16: "quint16"}
# What only TensorFlow can make something of: handles, and objects of its own.
UNREADABLE = {20: "resource", 21: "variant"}


# Variables are cut along one axis, or into a grid; a hostile pattern would take time to compare.
_MOST_NEAR = 32


class StoredText(PlainRecord):
    """A string that is read from its file when it is asked for."""

    __slots__ = ("_strings",)
    _strings: Strings

    def __init__(self, strings: Strings) -> None:
        object.__setattr__(self, "_strings", strings)

    @property
    def value(self) -> bytes:
        return self._strings.whole()

    @property
    def spec(self) -> LeafSpec:
        return LeafSpec("bytes", None)

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return self._strings.entry.size


class Shard:
    """A data file, opened when it is first read: a checkpoint may have more than may be open."""

    def __init__(self, path: str) -> None:
        self.name = path
        source = open_beside(path)
        self.size = source.size
        source.close()
        self._source: FileSource | None = None
        self._closed = False

    def read_into(self, offset: int, buffer: memoryview) -> int:
        if self._closed:
            raise ValueError(f"{self.name} is closed")
        source = self._source  # two threads may both open it: then one of them closes again
        if source is None:
            source = self._source = open_beside(self.name)
        return source.read_into(offset, buffer)

    def close(self) -> None:
        self._closed = True
        if self._source is not None:
            self._source.close()


def open_beside(path: str, folder: str = "") -> FileSource:
    """A file in a folder, its own if none is given; no link out of it is followed, and no pipe.

    Raises:
        DamagedError: it is missing.
        UntrustedError: it is something else than a file in this folder.
    """
    inside = os.path.join(os.path.realpath(folder or os.path.dirname(path)), "")
    if not os.path.realpath(path).startswith(inside):
        raise UntrustedError(
            f"{path} is a link to a file outside of its folder: if you trust it, copy the "
            "folder with the files that its links point to"
        )
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UntrustedError(f"{path} is no ordinary file")
        return open_file(path)
    except (PathNotFoundError, FileNotFoundError):
        raise DamagedError(
            f"{path} is missing: put back the files that were saved together"
        ) from None


@dataclass(slots=True)
class Build:
    """The records of a bundle, on the way to be made."""

    prefix: str
    bundle: Bundle
    shards: dict[int, Shard] = field(default_factory=dict)
    _slices: set[bytes] = field(default_factory=set)

    def record(self, key: bytes, leaf: str) -> Record:
        """The record of a key's entry.

        Raises:
            DamagedError, VersionError: it is not valid, or not known.
        """
        entry = self.bundle.entries[key]
        _check_type(leaf, entry)
        if entry.slices:
            return self._sliced(key, leaf, entry)
        return self._plain(leaf, entry)

    def check_all_used(self) -> None:
        """DamagedError if there are slices of a variable that is not there."""
        for key in self.bundle.entries:
            if key.startswith(b"\0") and key not in self._slices:
                raise _damaged(text(key, 80), "it is a slice that belongs to no variable")

    def _plain(self, leaf: str, entry: Entry) -> Record:
        dtype, source = DTYPES[entry.dtype], self._source(leaf, entry)
        count = math.prod(entry.shape)
        big = self.bundle.big_endian
        if dtype == dtypes.STRING:
            # A string takes a byte at least, for its length; their checksum takes four.
            if count and count + 4 > entry.size:
                raise _damaged(leaf, f"{count} strings in {entry.size} bytes")
            strings = Strings(leaf, source, entry, big, count)
            if not entry.shape:
                return StoredText(strings)
            return flat_array(dtype, entry.shape, strings.flat, "", entry.size)
        nbytes = count * dtypes.numpy_dtype(dtype).itemsize
        if entry.size != nbytes:
            shape = list(entry.shape)
            raise _damaged(leaf, f"{dtype} {shape} has {nbytes} bytes, found {entry.size}")
        numbers = Numbers(leaf, source, entry, big, dtype)
        return ForeignArray(dtype, entry.shape, (), numbers.read, _KINDS.get(entry.dtype, ""))

    def _source(self, leaf: str, entry: Entry) -> ByteSource:
        if not 0 <= entry.shard < self.bundle.shards:
            raise _damaged(leaf, f"it lies in data file {entry.shard} of {self.bundle.shards}")
        if entry.shard not in self.shards:
            path = f"{self.prefix}.data-{entry.shard:05}-of-{self.bundle.shards:05}"
            self.shards[entry.shard] = Shard(path)
        shard = self.shards[entry.shard]
        if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size > shard.size:
            raise DamagedError(
                f"{shard.name}, leaf {leaf!r}: expected {entry.size} bytes at {entry.offset}, "
                f"but the file has {shard.size} bytes in all"
            )
        return shard

    def _sliced(self, key: bytes, leaf: str, entry: Entry) -> ForeignArray:
        parts: list[tuple[Box, ArrayRecord]] = []
        for extents in entry.slices:
            box = _box(leaf, entry.shape, extents)
            part_key = slice_key(key, extents)
            self._slices.add(part_key)
            part = self.bundle.entries.get(part_key)
            if part is None:
                raise _damaged(leaf, f"its slice {shown(extents)} is missing")
            sizes = tuple(stop - start for start, stop in box)
            if (part.dtype, part.shape, part.slices) != (entry.dtype, sizes, []):
                raise _damaged(leaf, f"its slice {shown(extents)} has the shape {part.shape}")
            record = self._plain(leaf, part)
            assert isinstance(record, ForeignArray)  # it has an axis, for it has an extent
            parts.append((box, record))
        _check_cover(leaf, entry.shape, [box for box, _ in parts])
        dtype = DTYPES[entry.dtype]
        stored = sum(record.nbytes for _, record in parts)
        kind = _KINDS.get(entry.dtype, "")
        return ForeignArray(dtype, entry.shape, (), _Parts(dtype, parts).read, kind, stored)


class _Parts:
    """A variable whose slices were saved one by one."""

    def __init__(self, dtype: str, parts: list[tuple[Box, ArrayRecord]]) -> None:
        self._dtype = dtypes.memory_dtype(dtype)
        self._parts = parts

    def read(self, box: Box) -> Array:
        result = np.empty([max(0, stop - start) for start, stop in box], self._dtype)
        for place, record in self._parts:
            assert isinstance(record, ForeignArray)
            common = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(box, place, strict=True)]
            if any(start >= stop for start, stop in common):
                continue
            target = tuple(slice(a - s, b - s) for (a, b), (s, _) in zip(common, box, strict=True))
            inside = zip(common, place, strict=True)
            result[target] = record.read(tuple((a - s, b - s) for (a, b), (s, _) in inside))
        return result


def _check_type(leaf: str, entry: Entry) -> None:
    if entry.dtype not in DTYPES:
        raise VersionError(
            f"leaf {leaf!r} has the dtype {entry.dtype} of TensorFlow's, unknown here: "
            "upgrade milepost"
        )
    if not is_shape(list(entry.shape)):
        raise _damaged(leaf, f"{shown(list(entry.shape))} is no shape")


def _box(leaf: str, shape: tuple[int, ...], extents: Extents) -> Box:
    """Where a slice lies in its variable."""
    box = tuple(
        (0, size) if extent is None else (extent[0], extent[0] + extent[1])
        for extent, size in zip(extents, shape, strict=False)
    )
    inside = all(0 <= start < stop <= size for (start, stop), size in zip(box, shape, strict=False))
    if not shape or len(extents) != len(shape) or not inside:
        raise _damaged(leaf, f"the slice {shown(extents)} is outside of {list(shape)}")
    return box


def _check_cover(leaf: str, shape: tuple[int, ...], boxes: list[Box]) -> None:
    """Boxes inside an array of which no two overlap, and whose sizes add up, cover it."""
    total = sum(math.prod(stop - start for start, stop in box) for box in boxes)
    if total != math.prod(shape) or _overlap(boxes):
        raise _damaged(leaf, f"its {len(boxes)} slices do not cover its shape {list(shape)}")


def _overlap(boxes: list[Box]) -> bool:
    """Whether two boxes share an element; they are compared along the axis that tells most."""
    axis = max(range(len(boxes[0])), key=lambda axis: len({box[axis] for box in boxes}))
    near: list[Box] = []  # those that reach as far as the next one's start
    for box in sorted(boxes, key=lambda box: box[axis]):
        near = [other for other in near if other[axis][1] > box[axis][0]]
        if len(near) > _MOST_NEAR or any(_meet(box, other) for other in near):
            return True
        near.append(box)
    return False


def _meet(box: Box, other: Box) -> bool:
    return all(a < d and c < b for (a, b), (c, d) in zip(box, other, strict=True))


def _damaged(leaf: str, problem: str) -> DamagedError:
    return DamagedError(f"the index of the checkpoint, leaf {leaf!r}: {problem}")
