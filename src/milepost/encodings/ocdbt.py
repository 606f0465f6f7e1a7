"""OCDBT, TensorStore's database in a folder: a B+tree of keys, with the places of their values.

https://google.github.io/tensorstore/kvstore/ocdbt/index.html#storage-format

Only the newest version is read, whole and at once: it is small beside the values. Each
node lies where its parent says, once, and is checked against its CRC-32C.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from milepost.encodings.compressed import decompress_zstd
from milepost.encodings.crc32c import checksum
from milepost.errors import DamagedError, VersionError

MANIFEST = "manifest.ocdbt"
_MANIFEST_MAGIC, _NODE_MAGIC = 0x0CDB3A2A, 0x0CDB20DE
_HEADER = struct.Struct(">I8s")
_MISSING = 2**64 - 1
# Orbax lets nodes grow to 100 MB; 450,000 keys of the usual length have that much, and are
# more than any checkpoint has that is known.
_MAX_NODE, _MAX_KEYS = 64 << 20, 400_000
_MAX_KEY = 1 << 16

# (path, offset, length) -> those bytes of a file; raises DamagedError if there are none.
Read = Callable[[str, int, int], bytes]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value, or a node, lies. Paths are relative to the database's folder."""

    base: str  # of the paths in the files that lie there
    path: str
    offset: int
    length: int

    @property
    def file(self) -> str:
        return self.base + self.path


Value = bytes | Place


def read_tree(read: Read, manifest: bytes, name: str) -> dict[str, Value]:
    """Every key of the newest version in a database, and its value or where that lies.

    Paths are as the database has them: whoever reads confines them to the folder.

    Raises:
        DamagedError: it is not valid.
        VersionError: it is of a kind that is unknown here.
    """
    root = _read_manifest(manifest, name)
    walk = _Walk(read, name)
    if root is not None:
        height, place = root
        walk.visit(place, height, b"")
    return walk.values


def _read_manifest(data: bytes, name: str) -> tuple[int, Place] | None:
    """The height and place of the newest tree's root; None if it is empty."""
    cursor = _opened(data, _MANIFEST_MAGIC, name)
    cursor.take(16)  # an identifier
    if cursor.byte() != 0:
        raise VersionError(f"{name} is a numbered manifest, which milepost does not read")
    cursor.varints(2)  # how large inline values and nodes may be
    cursor.byte()  # how many versions a node has
    if cursor.varint() == 1:
        cursor.take(4)  # the level of compression
    files = _read_files(cursor, "")
    count = cursor.count()
    if count == 0:
        raise DamagedError(f"{name} is damaged: no version is in it")
    cursor.varints(count)  # the versions' numbers
    heights = cursor.take(count)
    places = _read_places(cursor, files, count)
    newest = places[-1]
    return None if newest.offset == newest.length == _MISSING else (heights[-1], newest)


@dataclass(slots=True)
class _Walk:
    read: Read
    name: str
    values: dict[str, Value] = field(default_factory=dict)
    seen: set[tuple[str, int]] = field(default_factory=set)
    entries: int = 0
    decoded: int = 0

    def visit(self, place: Place, height: int, prefix: bytes) -> None:
        """Add what a node holds, and those below it. `prefix` is what its keys begin with."""
        if (place.file, place.offset) in self.seen:
            raise DamagedError(f"{self.name} is damaged: a node lies below two others")
        self.seen.add((place.file, place.offset))
        if place.length > _MAX_NODE:
            raise DamagedError(f"{self.name} is damaged: a node of {place.length} bytes")
        data = self.read(place.file, place.offset, place.length)
        cursor = _opened(data, _NODE_MAGIC, place.file)
        self.decoded += len(cursor.data)
        if cursor.byte() != height:
            raise DamagedError(f"{place.file} is damaged: a node of another height")
        files = _read_files(cursor, place.base)
        count = cursor.count()
        self.entries += count
        if count == 0 or self.entries > _MAX_KEYS or self.decoded > 2 * _MAX_NODE:
            raise DamagedError(f"{place.file} is damaged: {self.entries:,} keys in all")
        keys, shared = _read_keys(cursor, count, inner=height > 0)
        if height == 0:
            values = _read_values(cursor, files, count)
            self._add([prefix + key for key in keys], values)
            return
        places = _read_places(cursor, files, count)
        for key, length, child in zip(keys, shared, places, strict=True):
            self.visit(child, height - 1, prefix + key[:length])

    def _add(self, keys: list[bytes], values: list[Value]) -> None:
        for key, value in zip(keys, values, strict=True):
            if len(key) > _MAX_KEY:
                raise DamagedError(f"{self.name} is damaged: a key of {len(key)} bytes")
            text = key.decode(errors="backslashreplace")
            if text in self.values:
                raise DamagedError(f"{self.name} is damaged: the key {text!r:.80} is there twice")
            self.values[text] = value


def _read_keys(cursor: _Cursor, count: int, *, inner: bool) -> tuple[list[bytes], list[int]]:
    """The keys of a node; and of each child, how much of its key all keys below begin with."""
    same = [0, *cursor.varints(count - 1)]
    lengths = cursor.varints(count)
    shared = cursor.varints(count) if inner else []
    keys: list[bytes] = []
    key, total = b"", 0
    for start, length in zip(same, lengths, strict=True):
        if start > len(key):
            raise DamagedError(f"{cursor.name} is damaged: a key has no beginning")
        key = key[:start] + cursor.take(length)
        total += len(key)
        # Each repeats what it shares with the one before: few bytes may tell of many.
        if total > _MAX_NODE:
            raise DamagedError(f"{cursor.name} is damaged: its keys have over {_MAX_NODE} bytes")
        keys.append(key)
    return keys, shared


def _read_values(cursor: _Cursor, files: list[tuple[str, str]], count: int) -> list[Value]:
    lengths = cursor.varints(count)
    kinds = cursor.take(count)
    if not set(kinds) <= {0, 1}:
        raise DamagedError(f"{cursor.name} is damaged: a value of an unknown kind")
    outside = kinds.count(1)
    numbers, offsets = cursor.varints(outside), cursor.varints(outside)
    places = iter(list(zip(numbers, offsets, strict=True)))
    values: list[Value] = []
    for kind, length in zip(kinds, lengths, strict=True):
        if kind == 0:
            values.append(cursor.take(length))
        else:
            number, offset = next(places)
            values.append(Place(*_file(cursor, files, number), offset, length))
    return values


def _read_places(cursor: _Cursor, files: list[tuple[str, str]], count: int) -> list[Place]:
    """Where nodes lie. What is told of how much is in them is not needed."""
    numbers, offsets, lengths = (cursor.varints(count) for _ in range(3))
    cursor.varints(3 * count)
    return [
        Place(*_file(cursor, files, number), offset, length)
        for number, offset, length in zip(numbers, offsets, lengths, strict=True)
    ]


def _file(cursor: _Cursor, files: list[tuple[str, str]], number: int) -> tuple[str, str]:
    if number >= len(files):
        raise DamagedError(f"{cursor.name} is damaged: no file has the number {number}")
    return files[number]


def _read_files(cursor: _Cursor, base: str) -> list[tuple[str, str]]:
    """The files that a node names: each with the base of the paths in it, and its path."""
    count = cursor.count()
    same = [0, *cursor.varints(count - 1)] if count else []
    lengths, bases = cursor.varints(count), cursor.varints(count)
    files: list[tuple[str, str]] = []
    path, total = b"", 0
    for start, length, split in zip(same, lengths, bases, strict=True):
        if start > len(path) or split > start + length:
            raise DamagedError(f"{cursor.name} is damaged: a path has no beginning")
        path = path[:start] + cursor.take(length)
        total += len(path) + len(base)
        if total > _MAX_NODE:
            raise DamagedError(f"{cursor.name} is damaged: its paths have over {_MAX_NODE} bytes")
        text = path[:split].decode(errors="backslashreplace")
        files.append((base + text, path[split:].decode(errors="backslashreplace")))
    return files


def _opened(data: bytes, magic: int, name: str) -> _Cursor:
    """What lies in the envelope that manifests and nodes share, checked and decompressed."""
    if len(data) < _HEADER.size + 6:
        raise DamagedError(f"{name} is damaged: {len(data)} bytes are no part of a database")
    found, length = _HEADER.unpack_from(data)
    if found != magic or int.from_bytes(length, "little") != len(data):
        raise DamagedError(
            f"{name} is damaged: expected {magic:#010x} and a length of {len(data)}, found "
            f"{found:#010x} and {int.from_bytes(length, 'little')}"
        )
    if checksum()(data[:-4], 0) != int.from_bytes(data[-4:], "little"):
        raise DamagedError(f"{name} is damaged: its bytes do not have their checksum")
    cursor = _Cursor(data[:-4], name, _HEADER.size)
    version, compression = cursor.varint(), cursor.varint()
    if version != 0 or compression > 1:
        raise VersionError(
            f"{name} is of version {version}, with the compression {compression}: "
            "a newer milepost may read it"
        )
    body = data[cursor.position : -4]
    if compression:
        body = decompress_zstd(body, _MAX_NODE, name)
    return _Cursor(body, name)


@dataclass(slots=True)
class _Cursor:
    data: bytes
    name: str
    position: int = 0

    def take(self, length: int) -> bytes:
        end = self.position + length
        if end > len(self.data):
            raise DamagedError(f"{self.name} is damaged: it ends before it should")
        part = self.data[self.position : end]
        self.position = end
        return part

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise DamagedError(f"{self.name} is damaged: a number has no end")

    def varints(self, count: int) -> list[int]:
        return [self.varint() for _ in range(count)]

    def count(self) -> int:
        """How many there are of something that takes at least a byte each."""
        value = self.varint()
        if value > min(len(self.data) - self.position, _MAX_KEYS):
            raise DamagedError(f"{self.name} is damaged: it says that {value} things follow")
        return value
