"""Where bytes are read from: the one thing that formats and stores ask of a storage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from milepost.errors import DamagedError


class ByteSource(Protocol):
    """Random access to the bytes of one immutable file."""

    @property
    def name(self) -> str:
        """What messages call this file: its path, or its name in the store."""

    @property
    def size(self) -> int:
        """Its real length in bytes."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset` on; returns how many bytes there were."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Look:
    """A source for who reads a little of it. Closing it does not close the other."""

    file: ByteSource

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def size(self) -> int:
        return self.file.size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        return look_into(self.file, offset, buffer)

    def close(self) -> None:
        """The file belongs to whoever opened it."""


def look_into(source: ByteSource, offset: int, buffer: memoryview) -> int:
    """As its `read_into`, for who reads a little of it: by its own `look_into`, if it has one."""
    read = getattr(source, "look_into", source.read_into)
    found: int = read(offset, buffer)
    return found


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a source, as a source of its own. Closing it does not close the other."""

    name: str
    file: ByteSource
    offset: int
    size: int

    def read_into(self, offset: int, buffer: memoryview) -> int:
        length = max(0, min(len(buffer), self.size - offset))
        return self.file.read_into(self.offset + offset, buffer[:length])

    def close(self) -> None:
        """The file belongs to whoever opened it."""


def read_exactly(source: ByteSource, offset: int, length: int) -> bytearray:
    """`length` bytes from `offset` on.

    The length is checked against the file before anything is allocated.

    Raises:
        DamagedError: the file ends before.
    """
    if offset < 0 or length < 0 or offset + length > source.size:
        raise DamagedError(
            f"{source.name} is cut short: expected {length} bytes at offset {offset}, "
            f"but the file has {source.size} bytes in all"
        )
    data = bytearray(length)
    fill_exactly(source, offset, memoryview(data))
    return data


def fill_exactly(source: ByteSource, offset: int, buffer: memoryview) -> None:
    """Fill the whole of `buffer` from `offset` on, or raise DamagedError."""
    found = source.read_into(offset, buffer)
    if found != len(buffer):
        raise DamagedError(
            f"{source.name} is cut short: expected {len(buffer)} bytes at offset {offset}, "
            f"found {found}"
        )
