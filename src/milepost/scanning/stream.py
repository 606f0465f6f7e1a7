"""A source as a file object, for the readers of Python's own."""

from __future__ import annotations

import io
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
