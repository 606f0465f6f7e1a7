"""A source as a file object, and a part of one as a source, for the readers of Python's own."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from milepost.source import ByteSource


class Stream(io.RawIOBase):
    """A source, to be read like a file."""

    def __init__(self, source: ByteSource) -> None:
        super().__init__()
        self._source = source
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}
        self._position = max(0, start[whence] + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._source.size - self._position))
        found = self._source.read_into(self._position, view[:length])
        self._position += found
        return found


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a source."""

    name: str
    file: ByteSource
    offset: int
    size: int

    def read_into(self, offset: int, buffer: memoryview) -> int:
        length = max(0, min(len(buffer), self.size - offset))
        return self.file.read_into(self.offset + offset, buffer[:length])

    def close(self) -> None:
        """The file belongs to whoever opened it."""
