"""Zip archives of stored members, each at an aligned place.

https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT. The CRC-32 of a member is written
into its header when its bytes have gone past: so everything is read once, and no reader sees
a member that is described behind its bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from milepost.conversion.writers.appending import Appender
from milepost.digest import Buffer
from milepost.errors import UsageError

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")
_CRC_AT = 14  # in a local header
_UTF8 = 0x0800
_VERSION, _VERSION64 = 20, 45
_NO16, _NO32 = 0xFFFF, 0xFFFF_FFFF  # "look in the record of 64 bits"
_ZIP64, _PADDING = 0x0001, 0x4246  # the latter is what PyTorch pads with
_JANUARY_1980 = 0x21
# About what a member costs beside its bytes.
OVERHEAD = 400


@dataclass(slots=True)
class _Entry:
    name: bytes
    nbytes: int
    start: int
    crc: int


class ZipWriter:
    """Writes members one after another, and at the end the directory."""

    def __init__(self, out: Appender) -> None:
        self._out = out
        self._entries: list[_Entry] = []

    def add(self, name: str, parts: Iterable[Buffer], nbytes: int, alignment: int = 1) -> None:
        """Write a member of `nbytes` bytes; its first lies at a multiple of `alignment`."""
        entry = _Entry(name.encode(), nbytes, self._out.position, 0)
        self._out.add(_local_header(entry, alignment))
        for part in parts:
            entry.crc = zlib.crc32(part, entry.crc)
            self._out.add(part)
        self._out.patch(entry.start + _CRC_AT, entry.crc.to_bytes(4, "little"))
        self._entries.append(entry)

    def finish(self) -> None:
        """Write the directory."""
        start = self._out.position
        self._out.add(b"".join(map(_central_header, self._entries)))
        end, count = self._out.position, len(self._entries)
        length = end - start
        if count >= _NO16 or end >= _NO32:
            self._out.add(
                _END64.pack(
                    b"PK\x06\x06",
                    _END64.size - 12,
                    _VERSION64,
                    _VERSION64,
                    0,
                    0,
                    count,
                    count,
                    length,
                    start,
                )
            )
            self._out.add(_LOCATOR.pack(b"PK\x06\x07", 0, end, 1))
            count, length, start = min(count, _NO16), min(length, _NO32), min(start, _NO32)
        self._out.add(_END.pack(b"PK\x05\x06", 0, 0, count, count, length, start, 0))


def check_name(name: str) -> str:
    """`name`, if every reader of archives takes it for a file's inside.

    Raises:
        UsageError: it is none.
    """
    parts = name.split("/")
    if not name.isprintable() or "\\" in name or ":" in parts[0] or {"", ".", ".."} & set(parts):
        raise UsageError(
            f"leaf {name!r} cannot be a member of an archive, whose names are relative paths, and "
            "printable: rename it"
        )
    if len(name.encode()) > 60_000:
        raise UsageError(f"leaf {name[:80]!r}... has a name too long for an archive: rename it")
    return name


def _local_header(entry: _Entry, alignment: int) -> bytes:
    wide = entry.nbytes >= _NO32
    size = _NO32 if wide else entry.nbytes
    extra = struct.pack("<HHQQ", _ZIP64, 16, entry.nbytes, entry.nbytes) if wide else b""
    length = entry.start + _LOCAL.size + len(entry.name) + len(extra)
    if length % alignment:
        padding = -(length + 4) % alignment
        extra += struct.pack("<HH", _PADDING, padding) + bytes(padding)
    return (
        _LOCAL.pack(b"PK\x03\x04", _version(wide), _UTF8, 0, 0, _JANUARY_1980, 0, size, size,
                    len(entry.name), len(extra))
        + entry.name
        + extra
    )  # fmt: skip


def _central_header(entry: _Entry) -> bytes:
    large, far = entry.nbytes >= _NO32, entry.start >= _NO32
    wide = [entry.nbytes] * 2 * large + [entry.start] * far
    extra = struct.pack(f"<HH{len(wide)}Q", _ZIP64, 8 * len(wide), *wide) if wide else b""
    size, version = min(entry.nbytes, _NO32), _version(bool(wide))
    return (
        _CENTRAL.pack(b"PK\x01\x02", version, version, _UTF8, 0, 0, _JANUARY_1980, entry.crc,
                      size, size, len(entry.name), len(extra), 0, 0, 0, 0,
                      min(entry.start, _NO32))
        + entry.name
        + extra
    )  # fmt: skip


def _version(wide: bool) -> int:
    return _VERSION64 if wide else _VERSION
