"""Sorted tables of keys and values, as LevelDB and TensorFlow write them.

    data blocks | metaindex block | index block | footer
    block: entries, restart points, their count | compression (1 byte) | masked CRC-32C (4 bytes)
    entry: shared, unshared, length of the value (varints) | rest of the key | value
    footer: handles of the metaindex and the index, padded to 40 bytes | magic

https://github.com/google/leveldb/blob/main/doc/table_format.md

TensorFlow compresses nothing and leaves no gaps, so every byte of a table is covered by a
checksum or has one possible value; what strays from that is refused.
"""

from __future__ import annotations

from collections.abc import Iterator

from milepost.encodings.crc32c import checksum, masked
from milepost.encodings.protobuf import varint
from milepost.errors import DamagedError, MilepostError, UnknownFormatError
from milepost.source import ByteSource, read_exactly

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER = 48
_TRAILER = 5
_RAW, _SNAPPY = 0, 1
# A table is read whole. A checkpoint has a key for each variable, or slice of one: thousands.
# A hostile table within these limits is read in a second or two. Keys share their beginnings
# with one another, so a short table may have very long ones.
_MAX_BYTES, _MAX_ENTRIES = 64 << 20, 80_000
_MAX_KEY, _MAX_KEYS = 4096, 32 << 20


def read_table(source: ByteSource) -> Iterator[tuple[bytes, bytes]]:
    """Every key and its value, in order, checked.

    Raises:
        DamagedError: it is not valid, or larger than any that is known.
        UnknownFormatError: it is compressed.
        MissingPackageError: the package for its checksums is not installed.
    """
    try:
        yield from _entries(source)
    except MilepostError:  # says more than we could; some are ValueErrors too
        raise
    except ValueError as error:
        raise DamagedError(
            f"{source.name} is no valid table: {error}; restore it from a backup"
        ) from None


def _entries(source: ByteSource) -> Iterator[tuple[bytes, bytes]]:
    if source.size > _MAX_BYTES:
        raise ValueError(f"{source.size:,} bytes, where at most {_MAX_BYTES:,} are expected")
    if source.size < _FOOTER:
        raise ValueError(f"{source.size} bytes, less than its footer has")
    data = memoryview(read_exactly(source, 0, source.size))
    handles = list(_handles(source.name, data))
    count, keys, last = 0, 0, b""
    for handle in handles:
        for key, value in _block(source.name, data, handle):
            count, keys = count + 1, keys + len(key)
            if count > _MAX_ENTRIES or keys > _MAX_KEYS:
                raise ValueError(f"more than {_MAX_ENTRIES:,} keys, or {_MAX_KEYS:,} bytes of them")
            if count > 1 and key <= last:
                raise ValueError(f"the key {key[:80]!r} behind {last[:80]!r}: not in order")
            last = key
            yield key, bytes(value)


Handle = tuple[int, int]


def _handles(name: str, data: memoryview) -> Iterator[Handle]:
    """Where the data blocks lie, one behind the other, from the first byte on."""
    footer = data[-_FOOTER:]
    if footer[40:] != MAGIC:
        raise ValueError(f"it ends with {bytes(footer[40:])!r}, not with a table's mark")
    metaindex, position = _handle(footer[:40], 0)
    index, position = _handle(footer[:40], position)
    if any(footer[position:40]):
        raise ValueError("something other than zeros in the footer")
    end = 0
    for _, value in _block(name, data, index):
        handle, used = _handle(value, 0)
        if used != len(value):
            raise ValueError("a handle with something behind it")
        end = _follows(handle, end)
        yield handle
    if list(_block(name, data, metaindex)):
        raise ValueError("a metaindex that is not empty")
    if _follows(index, _follows(metaindex, end)) != len(data) - _FOOTER:
        raise ValueError("bytes that belong to no block")


def _follows(handle: Handle, end: int) -> int:
    """The end of a block, which must begin where the last one ended."""
    start, size = handle
    if start != end:
        raise ValueError(f"a block at byte {start}, expected at {end}")
    return start + size + _TRAILER


def _handle(data: memoryview, position: int) -> tuple[Handle, int]:
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return (offset, size), position


def _block(name: str, data: memoryview, handle: Handle) -> Iterator[tuple[bytes, memoryview]]:
    """The entries of a block, whose checksum is compared first."""
    start, size = handle
    if start + size + _TRAILER > len(data) - _FOOTER or size < 4:
        raise ValueError(f"a block of {size} bytes at {start}, outside of the file")
    block, kind = data[start : start + size], data[start + size]
    stored = int.from_bytes(data[start + size + 1 : start + size + _TRAILER], "little")
    found = masked(checksum()(data[start : start + size + 1], 0))
    if found != stored:
        raise ValueError(
            f"the checksum of its block at byte {start} is {found:08x}, expected {stored:08x}"
        )
    if kind != _RAW:
        how = "with snappy" if kind == _SNAPPY else f"in the unknown way {kind}"
        raise UnknownFormatError(
            f"{name} is a table compressed {how}, which TensorFlow does not write; save it anew"
        )
    restarts = int.from_bytes(block[-4:], "little")
    if restarts * 4 + 4 > size:
        raise ValueError(f"{restarts} restart points in a block of {size} bytes")
    return _pairs(block[: size - 4 - restarts * 4])


def _pairs(entries: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    key, position = b"", 0
    while position < len(entries):
        shared, position = _varint(entries, position)
        unshared, position = _varint(entries, position)
        length, position = _varint(entries, position)
        middle = position + unshared
        if shared > len(key):
            raise ValueError(f"a key that shares {shared} bytes with one of {len(key)}")
        if middle + length > len(entries):
            raise ValueError("an entry that ends behind its block")
        if shared + unshared > _MAX_KEY:
            raise ValueError(f"a key of {shared + unshared} bytes")
        key = key[:shared] + bytes(entries[position:middle])
        position = middle + length
        yield key, entries[middle:position]


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value, end = varint(data, position)
    last = data[end - 1]
    # A second form of a number that has a shorter one, or one of more than 64 bits.
    if (end - position > 1 and not last) or (end - position == 10 and last > 1):
        raise ValueError("a number that is not in its only form")
    return value, end
