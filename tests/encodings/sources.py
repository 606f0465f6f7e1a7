"""Bytes in memory, as what encodings read from."""

from __future__ import annotations


class Bytes:
    """A source that counts how many bytes were read."""

    name = "in memory"

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.read = 0

    def read_into(self, offset: int, buffer: memoryview) -> int:
        part = self.data[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        self.read += len(part)
        return len(part)

    def close(self) -> None: ...
