"""Flax's msgpack files: `flax.serialization.to_bytes` and `msgpack_serialize`.

https://flax.readthedocs.io/en/latest/api_reference/flax.serialization.html. A tree of maps and
lists, whose path is a leaf's name. An array is an extension whose bytes are again msgpack: the
shape, the name of the dtype, and the numbers, which are read from where they lie. One of more
than a gigabyte is a map of flat pieces, and here one leaf.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from milepost import dtypes
from milepost.dtypes import Array
from milepost.encodings import msgpack
from milepost.encodings.msgpack import Span, Value
from milepost.encodings.strided import c_strides
from milepost.errors import DamagedError, UnknownFormatError, VersionError
from milepost.formats.arrays import stored_array, strided_array
from milepost.formats.names import leaf_name
from milepost.formats.place import Place
from milepost.limits import is_shape, shown
from milepost.record import ArrayRecord, Box, ForeignArray, PlainRecord, Record
from milepost.snapshot import Description, Snapshot, closing_on_error
from milepost.source import ByteSource, read_exactly

_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_CHUNKED = "__msgpack_chunked_array__"
# Binary strings are plain values, which are in memory from the start.
_MAX_BINARY = 1 << 20
# More than any model has that is known; each costs some time to look at.
_MAX_ARRAYS = 30_000
# Of what describes one array: its sizes, and what they are in.
_MAX_PARTS = 100
# NumPy's names where they are not ours.
_NAMES = {"float128": "x87_float128", "complex256": "x87_complex256"}
# Bytes of a text's length, by the kind of text: up to the longest key that is read.
_LENGTHS = {0xD9: 1, 0xDA: 2}


def recognises(place: Place) -> bool:
    """A map whose first key is a printable text. It has no mark: ask all others before."""
    start = place.start
    if not start or not (0x81 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF)):
        return False
    position = {0xDE: 3, 0xDF: 5}.get(start[0], 1)
    kind = start[position] if position < len(start) else 0
    position += 1
    if 0xA1 <= kind <= 0xBF:
        length = kind & 0x1F
    else:
        width = _LENGTHS.get(kind, 0)
        length = int.from_bytes(start[position : position + width], "big")
        position += width
    key = place.head(position + length)[position:]
    return 0 < length == len(key) and _is_text(key)


def open_place(place: Place) -> Snapshot:
    """The snapshot of a file of Flax's.

    Raises:
        DamagedError: it is not valid.
        UnknownFormatError: it has a value that Flax does not write.
        VersionError: a dtype is unknown here.
    """
    source = place.open()
    with closing_on_error([source]):
        tree = msgpack.read(source)
        records: dict[str, Record] = {}
        arrays = 0
        for path, value in _leaves(tree):
            arrays += isinstance(value, Span)
            if arrays > _MAX_ARRAYS:
                raise DamagedError(f"{source.name} has more than {_MAX_ARRAYS:,} arrays")
            name = leaf_name(path.encode(), source.name)
            if name in records:
                raise DamagedError(f"{source.name} has two leaves called {name!r}")
            records[name] = _record(source, name, value)
        return Snapshot(source.name, records, [source], Description("flax"))


def _is_text(key: bytes) -> bool:
    try:
        return key.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _leaves(value: Value, path: str = "") -> Iterator[tuple[str, Value]]:
    """The values that are not containers, and the arrays in pieces."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict) or _CHUNKED in value:
        yield path, value
        return
    for key, below in value.items():
        if key == "":
            raise DamagedError(f"the tree has a key without a text below {path!r}")
        yield from _leaves(below, f"{path}/{key}" if path else str(key))


def _record(source: ByteSource, name: str, value: Value) -> Record:
    where = f"{source.name}, leaf {name!r}"
    if _is_map(value):
        return _in_pieces(source, where, value)
    if not isinstance(value, Span):
        assert not isinstance(value, list | dict)  # which `_leaves` takes apart
        return PlainRecord(value)
    if value.code is None:
        if value.length > _MAX_BINARY:
            raise UnknownFormatError(f"{where}: a binary string of {value.length:,} bytes")
        return PlainRecord(bytes(read_exactly(source, value.start, value.length)))
    if value.code in (_ARRAY, _SCALAR):
        return _array(source, where, value)
    if value.code == _COMPLEX:
        return _complex(source, where, value)
    raise UnknownFormatError(
        f"{where}: a value of type {value.code}, which Flax does not write; it writes arrays "
        "(1), complex numbers (2) and NumPy's numbers (3)"
    )


def _is_map(value: Value) -> TypeGuard[dict[str | int, Value]]:
    return isinstance(value, dict)


def _array(source: ByteSource, where: str, value: Span) -> ArrayRecord:
    dtype, shape, data = _array_parts(source, where, value)
    return stored_array(dtype, shape, data.start)


def _array_parts(source: ByteSource, where: str, value: Value) -> tuple[str, tuple[int, ...], Span]:
    """Dtype, shape, and where the bytes are, of which there are as many as these say."""
    if not isinstance(value, Span) or value.code not in (_ARRAY, _SCALAR):
        raise DamagedError(f"{where}: expected an array, found {shown(value)}")
    match msgpack.read(source, value.start, value.end, most=_MAX_PARTS):
        case [list() as shape, str() as dtype, Span(code=None) as data] if is_shape(shape):
            pass
        case other:
            raise DamagedError(
                f"{where}: expected the shape, dtype and bytes of an array, found {shown(other)}"
            )
    dtype = _NAMES.get(dtype, dtype)
    try:
        itemsize = dtypes.numpy_dtype(dtype).itemsize
    except (KeyError, TypeError, ValueError):  # NumPy's word for a unit that is none
        raise VersionError(
            f"{where}: the dtype {shown(dtype)} is unknown here: a newer milepost, a newer "
            "ml_dtypes or another kind of machine may know it"
        ) from None
    if math.prod(shape) * itemsize != data.length:
        raise DamagedError(f"{where}: {dtype}{list(shape)} does not have {data.length} bytes")
    return dtype, tuple(shape), data


def _complex(source: ByteSource, where: str, value: Span) -> ForeignArray:
    match msgpack.read(source, value.start, value.end, most=_MAX_PARTS):
        case [float() as real, float() as imaginary]:
            number = complex(real, imaginary)
        case other:
            raise DamagedError(f"{where}: {shown(other)} is no complex number")

    def read(_: Box) -> Array:
        return np.array(number, np.complex128)

    return ForeignArray("complex128", (), (), read, "complex")


def _in_pieces(source: ByteSource, where: str, value: Mapping[str | int, Value]) -> Record:
    """A large array: `{"shape": {"0": ..}, "chunks": {"0": .., "1": ..}}`, each chunk flat."""
    shape, chunks = _in_order(value.get("shape")), _in_order(value.get("chunks"))
    if not chunks or not is_shape(shape) or value.keys() != {_CHUNKED, "shape", "chunks"}:
        raise DamagedError(f"{where}: expected a shape and chunks, found {shown(value)}")
    parts = [_array_parts(source, where, chunk) for chunk in chunks]
    dtype = parts[0][0]
    joined = _Joined.of(source, [data for _, _, data in parts])
    stored = dtypes.numpy_dtype(dtype).newbyteorder("<")
    wrong = {other for other, _, _ in parts} != {dtype} or any(len(s) != 1 for _, s, _ in parts)
    if wrong or joined.size != math.prod(shape) * stored.itemsize:
        raise DamagedError(f"{where}: its {len(parts)} chunks do not make {dtype}{shape}")
    strides = c_strides(shape, stored.itemsize)
    return strided_array(joined, 0, stored, tuple(shape), strides, kind=f"{len(parts)} chunks")


def _in_order(value: Value) -> list[Value] | None:
    """The values of `{"0": .., "1": ..}`; None if it is none."""
    if not isinstance(value, dict):
        return None
    names = [str(number) for number in range(len(value))]
    return [value[name] for name in names] if value.keys() == set(names) else None


@dataclass(frozen=True, slots=True)
class _Joined:
    """Parts of a file, as if they followed one another."""

    name: str
    size: int
    file: ByteSource
    parts: tuple[Span, ...]
    ends: tuple[int, ...]  # of each part, counted from the beginning of the first

    @classmethod
    def of(cls, file: ByteSource, parts: list[Span]) -> _Joined:
        ends = np.cumsum([part.length for part in parts], dtype=object).tolist()
        return cls(file.name, ends[-1], file, tuple(parts), tuple(ends))

    def read_into(self, offset: int, buffer: memoryview) -> int:
        filled = 0
        number = bisect.bisect_right(self.ends, offset)
        while filled < len(buffer) and number < len(self.parts):
            part = self.parts[number]
            inside = offset + filled - (self.ends[number] - part.length)
            piece = buffer[filled : filled + part.length - inside]
            found = self.file.read_into(part.start + inside, piece)
            filled += found
            if found < len(piece):
                break
            number += 1
        return filled

    def close(self) -> None:
        """The file belongs to the snapshot."""
