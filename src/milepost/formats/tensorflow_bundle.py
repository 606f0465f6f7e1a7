"""What the index of a TensorFlow checkpoint says of each tensor: parsed, nothing built.

The index is a table: the key "" has the header, every other key the entry of a tensor. A
partitioned variable has an entry without data that lists its slices, and for each an entry
under a key which is made of the variable's name and the slice.

https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/protobuf/tensor_bundle.proto
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/util/saved_tensor_slice_util.cc
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/lib/strings/ordered_code.cc
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from milepost.encodings.protobuf import fields
from milepost.encodings.sstable import read_table
from milepost.errors import DamagedError, MilepostError, UnknownFormatError, VersionError
from milepost.source import ByteSource

# The newest version of the format that is known; a file says what a reader must know at least.
_VERSION = 1

# Where a slice starts along each axis and how long it is; None is the whole axis.
Extents: TypeAlias = tuple[tuple[int, int] | None, ...]
Value: TypeAlias = int | memoryview


@dataclass(slots=True)
class Entry:
    """What the index says of one tensor; any number may be negative or huge."""

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0  # masked
    slices: list[Extents] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Bundle:
    """An index: how many data files there are, and the entry of each key."""

    shards: int
    big_endian: bool
    entries: Mapping[bytes, Entry]


def read_bundle(source: ByteSource) -> Bundle:
    """What an index says.

    Raises:
        DamagedError: it is not valid.
        UnknownFormatError: it is another table than a checkpoint's.
        VersionError: a newer TensorFlow wrote it.
        MissingPackageError: the package for its checksums is not installed.
    """
    key: bytes | None = None
    header: tuple[int, bool] | None = None
    entries: dict[bytes, Entry] = {}
    try:
        for key, value in read_table(source):
            if not key:
                header = _header(memoryview(value), source.name)
            elif header is None:  # whose key sorts before all others
                break
            else:
                entries[key] = parse_entry(memoryview(value))
    except MilepostError:
        raise
    except ValueError as error:
        raise DamagedError(f"{source.name}, leaf {_text(key)}: {error}") from None
    if header is None:
        raise UnknownFormatError(f"{source.name} is a table, but not of a TensorFlow checkpoint")
    return Bundle(*header, entries)


def _text(key: bytes | None) -> str:
    return repr((key or b"").decode(errors="backslashreplace")[:200])


def _header(message: memoryview, name: str) -> tuple[int, bool]:
    shards, endianness = 0, 0
    for number, value in fields(message):
        if number == 1 and isinstance(value, memoryview):
            raise UnknownFormatError(
                f"{name} is a checkpoint of the first format (V1), which TensorFlow wrote before "
                "1.0: load it with TensorFlow and save it anew"
            )
        match number:
            case 1:
                shards = integer(value)
            case 2:
                endianness = integer(value)
            case 3:
                _check_version(data(value), name)
    if not 0 <= shards < 1 << 31 or endianness not in (0, 1):
        raise ValueError(f"{shards} data files of the byte order {endianness}")
    return shards, endianness == 1


def _check_version(message: memoryview, name: str) -> None:
    for number, value in fields(message):
        if number == 2 and integer(value) > _VERSION:  # min_consumer
            raise VersionError(
                f"{name} needs version {value} of TensorFlow's checkpoint format; "
                f"{_VERSION} is the newest that is known here: upgrade milepost"
            )


def parse_entry(message: memoryview) -> Entry:
    """A BundleEntryProto; ValueError if it is none."""
    entry = Entry()
    for number, value in fields(message):
        match number:
            case 1:
                entry.dtype = integer(value)
            case 2:
                entry.shape = shape(data(value))
            case 3:
                entry.shard = integer(value)
            case 4:
                entry.offset = integer(value)
            case 5:
                entry.size = integer(value)
            case 6:
                entry.crc = int.from_bytes(data(value), "little")
            case 7:
                parts = (data(part) for axis, part in fields(data(value)) if axis == 1)
                entry.slices.append(tuple(map(_extent, parts)))
    return entry


def shape(message: memoryview) -> tuple[int, ...]:
    """A TensorShapeProto; -1 is an axis, or all of a shape, that is not known."""
    sizes = []
    for number, value in fields(message):
        if number == 2:
            pairs = fields(data(value))
            sizes.append(next((integer(size) for axis, size in pairs if axis == 1), 0))
        elif number == 3 and value:
            return (-1,)
    return tuple(sizes)


def _extent(message: memoryview) -> tuple[int, int] | None:
    start, length = 0, None
    for number, value in fields(message):
        match number:
            case 1:
                start = integer(value)
            case 2:
                length = integer(value)
    return None if length is None else (start, length)


def integer(value: Value) -> int:
    """A field that is a signed number; ValueError if it is something else."""
    if not isinstance(value, int):
        raise ValueError("bytes where a number is expected")  # noqa: TRY004  # of the file, no call

    return value - (1 << 64) if value >> 63 else value


def data(value: Value) -> memoryview:
    """A field that is a text or a message; ValueError if it is something else."""
    if not isinstance(value, memoryview):
        raise ValueError("a number where a message is expected")  # noqa: TRY004

    return value


def slice_key(name: bytes, extents: Extents) -> bytes:
    """The key of the entry of one slice of a variable."""
    escaped = name.replace(b"\0", b"\0\xff")  # no name in UTF-8 has the other byte that is escaped
    numbers = [number for extent in extents for number in extent or (0, -1)]
    rank = bytes([1, len(extents)]) if extents else b"\0"
    return b"\0" + escaped + b"\0\x01" + rank + b"".join(map(_signed, numbers))


def _signed(value: int) -> bytes:
    """A number in a form that sorts as numbers do: its length in its first bits."""
    length = next((n for n in range(1, 10) if -(1 << 7 * n - 1) <= value < 1 << 7 * n - 1), 10)
    code = bytearray(value.to_bytes(length, "big", signed=True))
    mark = (0xFFFF << 16 - length) & 0xFFFF
    code[0] ^= mark >> 8
    if length > 1:
        code[1] ^= mark & 0xFF
    return bytes(code)
