"""Zip archives, read so that no other reader can see another archive in the same bytes.

https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT

The end record are the last bytes of the file, the directory lies right before it, and the
members fill the file up to there, one right behind the other. Each is described twice, and
both descriptions agree. So there is nothing hidden, and nothing in two ways.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from milepost.encodings.deflated import MAX_RATIO, DeflatedSource
from milepost.errors import DamagedError, UntrustedError
from milepost.limits import shown
from milepost.source import ByteSource, Window, read_exactly

MARK = b"PK\x03\x04"

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")

_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _DESCRIPTOR, _LEVEL, _UTF8 = 0x2041, 0x0008, 0x0006, 0x0800
_NO16, _NO32 = 0xFFFF, 0xFFFF_FFFF  # "look in the record of 64 bits"
_ZIP64, _OTHER_NAME = 0x0001, 0x7075
_FOLDER, _FILE = 0x4000, 0x8000  # of Unix's file types
# More than any model has that is known; what a hostile directory costs to read stays small.
_MAX_MEMBERS, _MAX_DIRECTORY = 100_000, 32 << 20
_DRIVE = re.compile(r"[A-Za-z]:(/|$)")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive.

    Attributes:
        size: of its content.
        stored: whether its bytes lie in the file as they are.
        offset: where they begin in the file.
        compressed: how many there are.
        crc: the CRC-32 of the content.
    """

    name: str
    size: int
    stored: bool
    offset: int
    compressed: int
    crc: int


class Archive:
    """The members of an archive by name, folders left out."""

    def __init__(self, file: ByteSource, members: dict[str, Member]) -> None:
        self.file = file
        self.members = members

    def source(self, name: str) -> ByteSource:
        """A member's content. Closing it does not close the archive.

        Raises:
            DamagedError: there is no such member.
        """
        member = self._member(name)
        label = f"{self.file.name}:{name}"
        if member.stored:
            return Window(label, self.file, member.offset, member.size)
        return DeflatedSource(
            label, self.file, (member.offset, member.compressed), member.size, member.crc
        )

    def read(self, name: str, limit: int) -> bytes:
        """A whole small member, checked.

        Raises:
            DamagedError: there is no such member, it is larger than `limit`, or damaged.
        """
        member = self._member(name)
        if member.size > limit:
            raise DamagedError(
                f"{self.file.name}:{name} has {member.size:,} bytes, expected at most {limit:,}"
            )
        data = read_exactly(self.source(name), 0, member.size)
        self._check_crc(member, zlib.crc32(data))
        return bytes(data)

    def check(self, name: str) -> None:
        """Read all of a member, in parts, and raise DamagedError if it is not what it was."""
        member, source = self._member(name), self.source(name)
        crc = 0
        for start in range(0, member.size, _BLOCK):
            crc = zlib.crc32(read_exactly(source, start, min(_BLOCK, member.size - start)), crc)
        self._check_crc(member, crc)

    def _member(self, name: str) -> Member:
        try:
            return self.members[name]
        except KeyError:
            raise DamagedError(f"{self.file.name} has no member {name!r}") from None

    def _check_crc(self, member: Member, found: int) -> None:
        # PyTorch can be told to leave the checksums out: then all of them are 0.
        if found != member.crc and not (member.stored and member.crc == 0):
            raise DamagedError(
                f"{self.file.name}:{member.name} is damaged: expected the checksum "
                f"{member.crc:08x}, found {found:08x}"
            )


@dataclass(frozen=True, slots=True)
class _Entry:
    """What one of the two headers says of a member."""

    name: bytes
    flags: int
    method: int
    crc: int
    compressed: int
    size: int
    start: int  # of the local header


@dataclass(frozen=True, slots=True)
class _Directory:
    offset: int
    size: int
    count: int


def read_archive(source: ByteSource) -> Archive:
    """The archive in a file, every header of which is checked.

    Raises:
        DamagedError: it is not whole, or not valid.
        UntrustedError: it is made so that readers differ on what is in it, it would inflate
            without end, or it names paths outside of itself.
    """
    directory = _find_directory(source)
    entries = sorted(_entries(source, directory), key=lambda entry: entry.start)
    members: dict[str, Member] = {}
    position = 0
    ends = [*(entry.start for entry in entries[1:]), directory.offset]
    for entry, after in zip(entries, ends, strict=False):  # without entries there is one end
        if entry.start != position:
            raise UntrustedError(
                f"{source.name}: member {entry.name!r} begins at byte {entry.start}, expected "
                f"{position}: members overlap, or something is hidden between them"
            )
        member = _check_local(source, entry, after)
        if member.name in members:
            raise UntrustedError(f"{source.name} has two members called {member.name!r}")
        members[member.name] = member
        position = after
    if position != directory.offset:
        raise UntrustedError(f"{source.name} has bytes before its members")
    return Archive(source, {n: m for n, m in members.items() if not n.endswith("/")})


# The end record, and where it says that the directory is


def _find_directory(source: ByteSource) -> _Directory:
    start = source.size - _END.size
    tail = bytes(read_exactly(source, max(0, start), min(source.size, _END.size)))
    if start < 0 or not tail.startswith(b"PK\x05\x06"):
        raise DamagedError(
            f"{source.name} does not end as a zip archive does: it is cut short, or something "
            "was added to it"
        )
    _, disk, first_disk, here, count, size, offset, comment = _END.unpack(tail)
    if comment or disk or first_disk or here != count:
        raise UntrustedError(f"{source.name} has an end record of an archive in several parts")
    directory = _Directory(offset, size, count)
    end = start
    wide = _find_wide(source, start)
    if wide is not None:
        for narrow, full, no in (
            (count, wide.count, _NO16),
            (size, wide.size, _NO32),
            (offset, wide.offset, _NO32),
        ):
            if narrow not in (full, no):
                raise UntrustedError(f"{source.name} has two end records that disagree")
        directory, end = wide, start - _LOCATOR.size - _END64.size
    if directory.offset + directory.size != end:
        raise UntrustedError(
            f"{source.name}: its directory would end at byte {directory.offset + directory.size}, "
            f"its end record begins at {end}"
        )
    if directory.count > _MAX_MEMBERS or directory.size > _MAX_DIRECTORY:
        raise DamagedError(f"{source.name} has {directory.count:,} members, too many for a model")
    return directory


def _find_wide(source: ByteSource, end: int) -> _Directory | None:
    """What the end record of 64 bits says, which lies before the other, if there is one."""
    start = end - _LOCATOR.size
    if start < _END64.size:
        return None
    mark, disk, offset, disks = _LOCATOR.unpack(read_exactly(source, start, _LOCATOR.size))
    if mark != b"PK\x06\x07":
        return None
    start -= _END64.size
    if disk or disks not in (0, 1) or offset != start:
        raise UntrustedError(f"{source.name} has its end record of 64 bits at another place")
    mark, length, _, _, disk, first_disk, here, count, size, offset = _END64.unpack(
        read_exactly(source, start, _END64.size)
    )
    if mark != b"PK\x06\x06" or length != _END64.size - 12 or disk or first_disk or here != count:
        raise DamagedError(f"{source.name} has an end record of 64 bits that is not valid")
    return _Directory(offset, size, count)


# The directory


def _entries(source: ByteSource, directory: _Directory) -> Iterator[_Entry]:
    data = bytes(read_exactly(source, directory.offset, directory.size))
    position = 0
    for _ in range(directory.count):
        if len(data) - position < _CENTRAL.size:
            raise DamagedError(f"{source.name} has a directory that is cut short")
        fields = _CENTRAL.unpack_from(data, position)
        mark, _, _, flags, method, _, _, crc, compressed, size = fields[:10]
        name_length, extra_length, comment_length, disk, _, attributes, start = fields[10:]
        position += _CENTRAL.size
        end = position + name_length + extra_length + comment_length
        if mark != b"PK\x01\x02" or end > len(data) or disk not in (0, _NO16):
            raise DamagedError(f"{source.name} has a directory that is not valid")
        name = data[position : position + name_length]
        extra = data[position + name_length : end - comment_length]
        size, compressed, start = _wide(source, name, extra, (size, compressed, start))
        entry = _Entry(name, flags, method, crc, compressed, size, start)
        _check_entry(source, entry, attributes >> 16 & 0xF000)
        yield entry
        position = end
    if position != len(data):
        raise UntrustedError(f"{source.name} has a directory of more than its members")


def _wide(
    source: ByteSource, name: bytes, extra: bytes, values: tuple[int, ...]
) -> tuple[int, ...]:
    """`values`, with those that do not fit 32 bits from the extra field that has them."""
    fields = dict[int, bytes]()
    position = 0
    while position < len(extra):
        if len(extra) - position < 4:
            raise DamagedError(f"{source.name}: member {name!r} has an extra field cut short")
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind in fields or kind == _OTHER_NAME:
            raise UntrustedError(f"{source.name}: member {name!r} has two names, or two sizes")
        if length > len(extra) - position - 4:
            raise DamagedError(f"{source.name}: member {name!r} has an extra field cut short")
        fields[kind] = extra[position + 4 : position + 4 + length]
        position += 4 + length
    wide = fields.get(_ZIP64, b"")
    result = []
    for value in values:
        if value != _NO32 or _ZIP64 not in fields:
            result.append(value)
            continue
        if len(wide) < 8:
            raise DamagedError(f"{source.name}: member {name!r} lacks a size of 64 bits")
        result.append(int.from_bytes(wide[:8], "little"))
        wide = wide[8:]
    return tuple(result)


def _check_entry(source: ByteSource, entry: _Entry, file_type: int) -> None:
    label = f"{source.name}: member {entry.name!r:.200}"
    if entry.flags & _ENCRYPTED:
        raise UntrustedError(f"{label} is encrypted")
    if entry.flags & ~(_DESCRIPTOR | _LEVEL | _UTF8):
        raise DamagedError(f"{label} has unknown flags {entry.flags:#x}")
    if file_type not in (0, _FILE, _FOLDER):
        raise UntrustedError(f"{label} is a link, or a device, not a file")
    if entry.method not in (_STORED, _DEFLATED):
        raise DamagedError(f"{label} is compressed by method {entry.method}, which no model uses")
    if entry.method == _STORED and entry.size != entry.compressed:
        raise UntrustedError(
            f"{label} has two sizes, {shown(entry.size)} and {shown(entry.compressed)}"
        )
    if entry.size > (entry.compressed + 1) * MAX_RATIO:
        raise UntrustedError(
            f"{label} claims to inflate from {entry.compressed} bytes to {entry.size}, more "
            "than is possible"
        )


# The local headers


def _check_local(source: ByteSource, entry: _Entry, after: int) -> Member:
    """The member of an entry, once the header before its bytes says the same of it."""
    label = f"{source.name}: member {entry.name!r:.200}"
    header = bytes(read_exactly(source, entry.start, _LOCAL.size))
    mark, _, flags, method, _, _, crc, compressed, size, name_length, extra_length = _LOCAL.unpack(
        header
    )
    if mark != MARK:
        raise DamagedError(f"{label} is not at byte {entry.start}, where the directory has it")
    rest = bytes(read_exactly(source, entry.start + _LOCAL.size, name_length + extra_length))
    name = rest[:name_length]
    size, compressed = _wide(source, name, rest[name_length:], (size, compressed))
    local = _Entry(name, flags, method, crc, compressed, size, entry.start)
    if flags & _DESCRIPTOR:
        # What the writer did not know yet is 0 here, and follows the bytes.
        filled = replace(
            local,
            crc=local.crc or entry.crc,
            compressed=local.compressed or entry.compressed,
            size=local.size or entry.size,
        )
    else:
        filled = local
    if filled != entry:
        raise UntrustedError(f"{label} is described in two ways, which disagree")
    offset = entry.start + _LOCAL.size + len(rest)
    trailer = after - (offset + entry.compressed)
    if flags & _DESCRIPTOR and trailer > 0:
        _check_descriptor(source, entry, offset + entry.compressed, trailer)
    elif trailer != 0:
        raise UntrustedError(
            f"{label} ends at byte {offset + entry.compressed}, expected {after}: members "
            "overlap, or something is hidden between them"
        )
    text = _checked_name(source, entry)
    if text.endswith("/") and entry.size:
        raise UntrustedError(f"{label} is a folder with content")
    return Member(text, entry.size, method == _STORED, offset, entry.compressed, entry.crc)


def _check_descriptor(source: ByteSource, entry: _Entry, offset: int, length: int) -> None:
    narrow = (entry.crc, entry.compressed & _NO32, entry.size & _NO32)
    wide = struct.pack("<LQQ", entry.crc, entry.compressed, entry.size)
    known = [wide, b"PK\x07\x08" + wide]
    if max(entry.compressed, entry.size) <= _NO32:
        known += [struct.pack("<LLL", *narrow), b"PK\x07\x08" + struct.pack("<LLL", *narrow)]
    if length > 24 or bytes(read_exactly(source, offset, length)) not in known:
        raise UntrustedError(
            f"{source.name}: member {entry.name!r} is followed by a description that disagrees"
        )


def _checked_name(source: ByteSource, entry: _Entry) -> str:
    try:
        name = entry.name.decode()
    except UnicodeDecodeError:
        raise DamagedError(f"{source.name}: {entry.name!r} is no name in UTF-8") from None
    parts = name.removesuffix("/").split("/")
    if (
        not name.isprintable()
        or "\\" in name
        or _DRIVE.match(name)
        or any(part in ("", ".", "..") for part in parts)
    ):
        raise UntrustedError(f"{source.name} has a member called {name!r:.200}")
    return name
