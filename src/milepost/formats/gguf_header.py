"""The header of a GGUF file: its metadata and where its tensors lie, as plain data.

    "GGUF", version, count of tensors, count of keys     then each key with its type and value,
    then each tensor's name, sizes, type and offset      then, aligned, the tensors' bytes

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import TypeAlias

from milepost.errors import DamagedError, UnknownFormatError, VersionError
from milepost.formats.names import MAX_NAME_BYTES, leaf_name, text
from milepost.limits import MAX_RANK
from milepost.source import ByteSource, read_exactly

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
# By the number of the type, what `struct` calls it.
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_NAMES = {
    **{0: "uint8", 1: "int8", 2: "uint16", 3: "int16", 4: "uint32", 5: "int32", 6: "float32"},
    **{7: "bool", 8: "string", 9: "array", 10: "uint64", 11: "int64", 12: "float64"},
}
# More than any model has that is known. What is counted takes time or memory for each.
_MAX_KEYS, _MAX_TENSORS, _MAX_DEPTH = 1 << 12, 1 << 17, 4
_MAX_STRINGS = 1 << 21
_STRINGS_IN_THE_TIME_OF_AN_ARRAY = 16
# An array that is longer is described, and read only when it is asked for.
_SHORT, _SHOWN = 64, 8
# What a string in the metadata may have, chat templates included; the rest is left out.
_LONGEST_TEXT = 1 << 15
# What all names and values together may take in memory, but for one that is asked for whole.
_MAX_KEPT, _NUMBER_IN_MEMORY = 32 << 20, 32

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value]"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    name: str
    sizes: tuple[int, ...]  # the innermost first
    type: int
    offset: int  # from the start of the data


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    version: int
    big_endian: bool
    metadata: dict[str, Value]
    tensors: list[TensorInfo]
    data_start: int
    places: dict[str, int] = field(repr=False)  # where the value of each key begins


def read_header(source: ByteSource) -> GGUFHeader:
    """The header of the GGUF file in `source`.

    Raises:
        DamagedError: it is not a valid one; the message says what is wrong.
        VersionError, UnknownFormatError: it is of a version later, or earlier, than these.
    """
    big_endian = _is_big_endian(source)
    cursor = _Cursor(source, ">" if big_endian else "<", 8)
    tensor_count, key_count = cursor.number("Q"), cursor.number("Q")
    if tensor_count > _MAX_TENSORS or key_count > _MAX_KEYS:
        raise cursor.wrong(f"{tensor_count:,} tensors and {key_count:,} keys, too many")
    metadata: dict[str, Value] = {}
    places: dict[str, int] = {}
    for _ in range(key_count):
        key = leaf_name(cursor.name(), source.name)
        if key in metadata:
            raise cursor.wrong(f"the key {key!r:.80} twice")
        places[key] = cursor.position
        metadata[key] = _value(cursor, cursor.number("I"))
    tensors = [_tensor(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise cursor.wrong(f"an alignment of {alignment!r:.80}, which is no power of two")
    start = -(-cursor.position // alignment) * alignment
    version = cursor.version
    return GGUFHeader(version, big_endian, metadata, tensors, start, places)


def read_value(source: ByteSource, header: GGUFHeader, key: str) -> Value:
    """The whole value of a key, however long."""
    cursor = _Cursor(source, ">" if header.big_endian else "<", header.places[key])
    return _value(cursor, cursor.number("I"), whole=True)


def _is_big_endian(source: ByteSource) -> bool:
    raw = read_exactly(source, 0, 8)[4:]
    # Versions are small: with its low half zero, the number is the other way round.
    return raw[:2] == b"\0\0"


class _Cursor:
    """A position in a file that only moves on, with some of what follows it in memory."""

    _WINDOW = 1 << 20

    def __init__(self, source: ByteSource, order: str, position: int) -> None:
        self._source = source
        self.order = order
        self.position = position
        self._window = b""
        self._start = position  # of the window
        self._strings_left = _MAX_STRINGS
        self._left = _MAX_KEPT
        self.version = self._version()

    def _version(self) -> int:
        (version,) = struct.unpack(self.order + "I", read_exactly(self._source, 4, 4))
        if version > max(_VERSIONS):
            raise VersionError(
                f"{self._source.name} is GGUF of version {version}; known here are {_VERSIONS}: "
                "upgrade milepost"
            )
        if version not in _VERSIONS:
            raise UnknownFormatError(
                f"{self._source.name} is GGUF of version {version}, of before August 2023, which "
                "its own tools no longer read: get a newer file of the model"
            )
        return int(version)

    def take(self, length: int) -> bytes:
        """The next bytes."""
        begin = self.position - self._start
        if begin + length > len(self._window):
            if length > self._source.size - self.position:
                raise self.wrong(
                    f"{length} bytes at {self.position}, of {self._source.size} in all"
                )
            room = min(max(length, self._WINDOW), self._source.size - self.position)
            self._window = bytes(read_exactly(self._source, self.position, room))
            self._start, begin = self.position, 0
        self.position += length
        return self._window[begin : begin + length]

    def skip(self, length: int) -> None:
        if length > self._source.size - self.position:
            raise self.wrong(f"{length} bytes at {self.position}, of {self._source.size} in all")
        self.position += length
        if self.position - self._start > len(self._window):
            self._window, self._start = b"", self.position

    def number(self, code: str) -> int:
        (value,) = struct.unpack(self.order + code, self.take(struct.calcsize(code)))
        return int(value)

    def string(self) -> bytes:
        self.count_strings(1)
        length = self.number("Q")
        if length > self._WINDOW:
            raise self.wrong(f"a text of {length:,} bytes, too long")
        return self.take(length)

    def name(self) -> bytes:
        raw = self.string()
        if len(raw) > MAX_NAME_BYTES:
            raise self.wrong(f"a name of {len(raw):,} bytes, too long")
        self.keep(len(raw))
        return raw

    def keep(self, nbytes: int) -> None:
        """Count what stays in memory."""
        self._left -= nbytes
        if self._left < 0:
            raise self.wrong(f"names and values of more than {_MAX_KEPT:,} bytes")

    def skip_strings(self, count: int) -> None:
        """Go past so many strings, quickly: a vocabulary has hundreds of thousands."""
        self.count_strings(count)
        unpack = struct.Struct(self.order + "Q").unpack_from
        while count:
            # At least the length of one is in the window after this.
            self.take(8)
            self.position -= 8
            window, begin = self._window, self.position - self._start
            last = len(window) - 8
            while count and begin <= last:
                begin += 8 + unpack(window, begin)[0]
                count -= 1
            self.skip(begin - (self.position - self._start))

    def count_strings(self, count: int) -> None:
        self._strings_left -= count
        if self._strings_left < 0:
            raise self.wrong(f"more than {_MAX_STRINGS:,} strings")

    def wrong(self, found: str) -> DamagedError:
        return DamagedError(f"{self._source.name} is no valid GGUF file: it has {found}")


def _value(cursor: _Cursor, kind: int, depth: int = 0, whole: bool = False) -> Value:
    """A value of a type, as JSON has it."""
    if kind == _STRING:
        raw = cursor.string()
        if whole:
            return text(raw, len(raw))
        cursor.keep(min(len(raw), _LONGEST_TEXT))
        return text(raw, _LONGEST_TEXT)
    if kind == _ARRAY:
        return _array(cursor, depth + 1, whole)
    return _numbers(cursor, kind, 1, whole)[0]


def _array(cursor: _Cursor, depth: int, whole: bool) -> Value:
    kind, count = cursor.number("I"), cursor.number("Q")
    if depth > _MAX_DEPTH:
        raise cursor.wrong(f"arrays in arrays, more than {_MAX_DEPTH} deep")
    shown = count if whole or count <= _SHORT else _SHOWN
    if kind in _CODES:
        items = _numbers(cursor, kind, shown, whole)
        cursor.skip((count - shown) * struct.calcsize(_CODES[kind]))
    else:
        if count > _MAX_STRINGS:
            raise cursor.wrong(f"an array of {count:,} {_NAMES.get(kind, kind)}s, too many")
        if kind == _ARRAY:
            cursor.count_strings(count * _STRINGS_IN_THE_TIME_OF_AN_ARRAY)
        items = [_value(cursor, kind, depth, whole) for _ in range(shown)]
        if kind == _STRING:
            cursor.skip_strings(count - shown)
        else:
            for _ in range(count - shown):
                _value(cursor, kind, depth, whole)
    if shown == count:
        return items
    return {"type": _NAMES[kind], "count": count, "first": items}


def _numbers(cursor: _Cursor, kind: int, count: int, whole: bool) -> list[Value]:
    code = _CODES.get(kind)
    if code is None:
        raise cursor.wrong(f"a value of the type {kind}, which is unknown")
    if not whole:
        cursor.keep(count * _NUMBER_IN_MEMORY)
    data = cursor.take(count * struct.calcsize(code))
    if code == "?" and data.strip(b"\0\1"):
        raise cursor.wrong(f"{data[:1]!r} for a truth value")
    found: tuple[bool | int | float, ...] = struct.unpack(f"{cursor.order}{count}{code}", data)
    # JSON has no word for these.
    return [n if math.isfinite(n) else str(n) for n in found]


def _tensor(cursor: _Cursor) -> TensorInfo:
    name = leaf_name(cursor.name(), cursor._source.name)
    rank = cursor.number("I")
    if rank > MAX_RANK:
        raise cursor.wrong(f"the tensor {name!r:.80} of {rank} axes, of {MAX_RANK} at most")
    sizes = struct.unpack(f"{cursor.order}{rank}Q", cursor.take(8 * rank))
    return TensorInfo(name, sizes, cursor.number("I"), cursor.number("Q"))
