"""The bytes of an HDF5 file as its structures address them, and how much of them may be read."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace

from milepost.errors import DamagedError, UnknownFormatError, UntrustedError
from milepost.source import ByteSource, read_exactly

# What describes the data of the largest models is a few MB, and reading it costs some times as
# much work. What a hostile file can ask for, by describing things over and over, ends here.
_LEAST_WORK, _MOST_WORK, _WORK_PER_BYTE = 4 << 20, 48 << 20, 6
_EACH = 64  # bytes of work: what it costs to look at one more thing


@dataclass(slots=True)
class Image:
    """A file from its base address on, with the widths of its addresses and lengths."""

    source: ByteSource
    base: int = 0
    offset_size: int = 8
    length_size: int = 8
    _most: int = 0
    _work: int = field(default=0, repr=False)

    def for_elements(self) -> Image:
        """The same, with work of its own that may grow with the file, to read elements by."""
        return replace(self, _most=_LEAST_WORK + _WORK_PER_BYTE * self.source.size, _work=0)

    @property
    def undefined(self) -> int:
        """The address of what is not there."""
        return (1 << 8 * self.offset_size) - 1

    def read(self, address: int, length: int) -> bytes:
        """Bytes of a description."""
        self.spend(length)
        return bytes(read_exactly(self.source, self.base + address, length))

    def cursor(self, address: int, length: int) -> Cursor:
        """A cursor over `length` bytes at an address, or over as many as there are."""
        left = max(0, self.source.size - self.base - address)
        return Cursor(self, self.read(address, min(length, left)))

    def spend(self, work: int) -> None:
        """Count work; raises UntrustedError when it is more than any sound file needs."""
        self._work += work + _EACH
        if not self._most:
            self._most = min(_MOST_WORK, _LEAST_WORK + _WORK_PER_BYTE * self.source.size)
        if self._work > self._most:
            raise UntrustedError(
                f"{self.source.name} describes far more than it holds, or the same thing over "
                "and over: it was made to be slow"
            )

    def damaged(self, problem: str) -> DamagedError:
        return DamagedError(f"{self.source.name} is no valid HDF5 file: {problem}")

    def unknown(self, feature: str) -> UnknownFormatError:
        return UnknownFormatError(
            f"{self.source.name} is an HDF5 file with {feature}, which milepost does not read: "
            "write it once more with h5py's usual settings, or h5repack"
        )


class Cursor:
    """Fields of a structure, one after another."""

    def __init__(self, image: Image, data: bytes) -> None:
        self.image = image
        self.data = data
        self.position = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def take(self, length: int) -> bytes:
        if length > self.left:
            raise self.image.damaged("a structure ends before its last field")
        start = self.position
        self.position += length
        return self.data[start : self.position]

    def skip(self, length: int) -> None:
        self.take(length)

    def uint(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def uints(self, count: int, width: int) -> list[int]:
        return [self.uint(width) for _ in range(count)]

    def offset(self) -> int:
        return self.uint(self.image.offset_size)

    def length(self) -> int:
        return self.uint(self.image.length_size)

    def text(self) -> bytes:
        """Bytes up to a zero, which is skipped."""
        end = self.data.find(b"\0", self.position)
        if end < 0:
            raise self.image.damaged("a name has no end")
        return self.take(end + 1 - self.position)[:-1]

    def expect(self, mark: bytes) -> None:
        found = self.take(len(mark))
        if found != mark:
            raise self.image.damaged(f"expected {mark!r}, found {found!r}")

    def version(self, what: str, known: range | tuple[int, ...]) -> int:
        """The version of a structure, one byte."""
        found = self.uint(1)
        if found not in known:
            raise self.image.unknown(f"version {found} of {what}")
        return found


def lookup3(data: bytes) -> int:
    """The checksum of HDF5's newer structures.

    Bob Jenkins' hash of 2006: https://burtleburtle.net/bob/c/lookup3.c
    """
    mask = 0xFFFF_FFFF
    a: int
    b: int
    c: int
    a = b = c = (0xDEADBEEF + len(data)) & mask
    count = max(0, (len(data) - 1) // 12)
    for x, y, z in struct.iter_unpack("<3I", data[: 12 * count]):
        a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
        for shift in (4, 6, 8, 16, 19, 4):
            # Six rounds, in each of which the three change their places.
            a = (a - c) & mask ^ (c << shift | c >> 32 - shift) & mask
            c = (c + b) & mask
            a, b, c = b, c, a
    rest = data[12 * count :]
    if not rest:
        return c
    x, y, z = struct.unpack("<3I", rest.ljust(12, b"\0"))
    a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
    for shift in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - (b << shift | b >> 32 - shift)) & mask
        a, b, c = b, c, a
    # Seven rounds end with what was `c` one place on.
    return b
