"""The types of elements: which of ours each is, and the elements out of their bytes."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from milepost import dtypes
from milepost.dtypes import Array
from milepost.encodings.hdf5.image import Cursor
from milepost.errors import UntrustedError

_DEEPEST = 8
_MOST_MEMBERS = 4096
# (bytes, bits of the exponent, of the mantissa, bias) of floats, all with the sign on top.
_FLOATS = {
    (1, 5, 2, 15): "float8_e5m2",
    (1, 4, 3, 7): "float8_e4m3fn",
    (2, 5, 10, 15): "float16",
    (2, 8, 7, 127): "bfloat16",
    (4, 8, 23, 127): "float32",
    (8, 11, 52, 1023): "float64",
}
_FIXED, _FLOAT, _TIME, _STRING, _BITS, _OPAQUE = range(6)
_COMPOUND, _REFERENCE, _ENUM, _VARIABLE, _ARRAY = range(6, 11)


@dataclass(frozen=True, slots=True)
class Datatype:
    """The type of an element.

    Attributes:
        size: in the file, in bytes.
        dtype: our name of it; empty for a compound one that is no complex number.
        swapped: the width of the numbers in it whose bytes lie in the other order, or 0.
        shape: of an element that is an array.
        padding: how strings of a fixed length end: 0 with a zero, 1 with zeros, 2 with spaces.
        variable: whether the strings lie in a heap elsewhere, and any length has an end.
        members: of a compound type, with the place of each.
    """

    size: int
    dtype: str
    swapped: int = 0
    shape: tuple[int, ...] = ()
    padding: int = 1
    variable: bool = False
    members: tuple[tuple[str, int, Datatype], ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether little-endian bytes in the file are those in memory."""
        return not self.members and not self.swapped and self.dtype != dtypes.STRING


def read_datatype(cursor: Cursor, depth: int = 0) -> Datatype:
    """The type that a message describes.

    Raises:
        DamagedError, UnknownFormatError, UntrustedError: it is none that can be read here.
    """
    image = cursor.image
    image.spend(0)
    if depth > _DEEPEST:
        raise UntrustedError(f"{image.source.name} has a type nested over {_DEEPEST} levels deep")
    first = cursor.uint(1)
    version, kind = first >> 4, first & 15
    bits = cursor.uint(3)
    size = cursor.uint(4)
    if not 1 <= version <= 4 or not size:
        raise image.unknown(f"a datatype of version {version} and {size} bytes")
    match kind:
        case 0 | 4:
            return _integer(cursor, size, bits, signed=kind == _FIXED and bool(bits & 8))
        case 1:
            return _float(cursor, size, bits)
        case 3:
            return Datatype(size, dtypes.STRING, padding=bits & 15)
        case 5:
            cursor.skip(bits & 0xFF)
            return Datatype(size, "uint8", shape=(size,))
        case 6:
            return _compound(cursor, version, size, bits & 0xFFFF, depth)
        case 7:
            raise UntrustedError(
                f"{image.source.name} holds references to other places, which milepost never "
                "follows: write the values themselves"
            )
        case 8:
            return _enumeration(cursor, version, size, bits & 0xFFFF, depth)
        case 9:
            base = read_datatype(cursor, depth + 1)
            if bits & 15 != 1 or base.size != 1:
                raise image.unknown("arrays of variable lengths")
            if size != 8 + image.offset_size:
                raise image.damaged(f"a string of variable length has {size} bytes")
            return Datatype(size, dtypes.STRING, variable=True)
        case 10:
            return _array(cursor, version, size, depth)
    raise image.unknown(f"elements of the class {kind}")


def _integer(cursor: Cursor, size: int, bits: int, *, signed: bool) -> Datatype:
    offset, precision = cursor.uints(2, 2)
    if size not in (1, 2, 4, 8) or offset or precision != 8 * size:
        raise cursor.image.unknown(f"integers of {precision} bits in {size} bytes")
    return Datatype(size, f"{'' if signed else 'u'}int{8 * size}", _swapped(bits & 1, size))


def _swapped(big: int, size: int) -> int:
    return size if size > 1 and bool(big) == (sys.byteorder == "little") else 0


def _float(cursor: Cursor, size: int, bits: int) -> Datatype:
    offset, precision = cursor.uints(2, 2)
    exponent_at, exponent, mantissa_at, mantissa = cursor.uints(4, 1)
    name = _FLOATS.get((size, exponent, mantissa, cursor.uint(4)))
    usual = (offset, precision, mantissa_at, exponent_at, bits >> 8 & 0xFF)
    if name is None or bits & 0x40 or usual != (0, 8 * size, 0, mantissa, 8 * size - 1):
        raise cursor.image.unknown(
            f"floats of {exponent} bits of exponent and {mantissa} of mantissa in {size} bytes"
        )
    return Datatype(size, name, _swapped(bits & 1, size))


def _name(cursor: Cursor, version: int) -> bytes:
    start = cursor.position
    name = cursor.text()
    if version < 3:
        cursor.skip(-(cursor.position - start) % 8)
    return name


def _enumeration(cursor: Cursor, version: int, size: int, count: int, depth: int) -> Datatype:
    base = read_datatype(cursor, depth + 1)
    if base.size != size or "int" not in base.dtype or count > _MOST_MEMBERS:
        raise cursor.image.damaged("an enumeration of something else than integers")
    names = [_name(cursor, version) for _ in range(count)]
    values = [cursor.uint(size) for _ in range(count)]
    # What h5py makes of NumPy's booleans.
    if size == 1 and dict(zip(names, values, strict=True)) == {b"FALSE": 0, b"TRUE": 1}:
        return replace(base, dtype="bool")
    return base


def _array(cursor: Cursor, version: int, size: int, depth: int) -> Datatype:
    rank = cursor.uint(1)
    cursor.skip(3 if version < 3 else 0)
    shape = tuple(cursor.uints(rank, 4))
    cursor.skip(4 * rank if version < 3 else 0)
    base = read_datatype(cursor, depth + 1)
    if rank > 32 or math.prod(shape) * base.size != size:
        raise cursor.image.damaged(f"elements of the shape {shape} in {size} bytes")
    if base.members:
        raise cursor.image.unknown("arrays of compounds inside of elements")
    return replace(base, size=size, shape=shape + base.shape)


def _compound(cursor: Cursor, version: int, size: int, count: int, depth: int) -> Datatype:
    image = cursor.image
    members: list[tuple[str, int, Datatype]] = []
    if not 0 < count <= _MOST_MEMBERS:
        raise image.damaged(f"a compound of {count} members")
    for _ in range(count):
        name = _name(cursor, version).decode("utf-8", "replace")
        place = cursor.uint(4 if version < 3 else (size.bit_length() + 7) // 8)
        inner: tuple[int, ...] = ()
        if version == 1:
            rank = cursor.uint(1)
            cursor.skip(11)
            inner = tuple(cursor.uints(4, 4)[: min(rank, 4)])
        member = read_datatype(cursor, depth + 1)
        if inner:
            length = math.prod(inner) * member.size
            member = replace(member, size=length, shape=inner + member.shape)
        if place + member.size > size:
            raise image.damaged(f"the member {name!r:.80} ends behind its compound")
        members.append((name, place, member))
    return _complex(size, members) or Datatype(size, "", members=tuple(members))


def _complex(size: int, members: list[tuple[str, int, Datatype]]) -> Datatype | None:
    """A complex number is two floats to h5py, `r` and `i`."""
    if [name for name, _, _ in members] != ["r", "i"]:
        return None
    (_, start, real), (_, middle, imaginary) = members
    names = {"float32": "complex64", "float64": "complex128"}
    if real != imaginary or real.shape or real.dtype not in names:
        return None
    if (start, middle, 2 * real.size) != (0, real.size, size):
        return None
    return Datatype(size, names[real.dtype], real.swapped)


Heap = Callable[[bytes], bytes]


def decode(raw: Array, datatype: Datatype, heap: Heap) -> Array:
    """Elements out of their bytes, which lie along the last axis; that becomes their own shape.

    `heap` fetches a string of variable length by what stands in its place.
    """
    outer = raw.shape[:-1]
    shape = outer + datatype.shape
    if datatype.dtype == dtypes.STRING:
        width = datatype.size // max(1, math.prod(datatype.shape))
        parts = np.ascontiguousarray(raw).reshape(math.prod(shape), width)
        result = np.empty(len(parts), object)
        for index, part in enumerate(parts):
            text = part.tobytes()
            result[index] = heap(text) if datatype.variable else _cut(text, datatype.padding)
        return result.reshape(shape)
    if datatype.swapped:
        raw = raw.reshape(*outer, datatype.size // datatype.swapped, datatype.swapped)[
            ..., ::-1
        ].reshape(raw.shape)
    contiguous = np.ascontiguousarray(raw)
    return contiguous.reshape(-1).view(dtypes.numpy_dtype(datatype.dtype)).reshape(shape)


def _cut(text: bytes, padding: int) -> bytes:
    if padding == 0:
        return text.partition(b"\0")[0]
    return text.rstrip(b" " if padding == 2 else b"\0")
