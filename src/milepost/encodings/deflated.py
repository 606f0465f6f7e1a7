"""Deflated bytes as a source: inflated on the way, in memory that does not grow with them.

https://www.rfc-editor.org/rfc/rfc1951
"""

from __future__ import annotations

import threading
import zlib
from dataclasses import dataclass
from typing import Any

from milepost.errors import DamagedError
from milepost.source import ByteSource, read_exactly

# Two bits of input make at most 258 bytes of output.
MAX_RATIO = 1032
_BLOCK = 1 << 16
# Reading backwards starts at the nearest of these places, of which each keeps some 50 kB.
_WAYPOINTS = 32


@dataclass(slots=True)
class _State:
    """An inflater in the middle of its work."""

    inflater: Any  # zlib's class has no public name
    read: int = 0  # bytes of input that it has had
    written: int = 0

    def copy(self) -> _State:
        return _State(self.inflater.copy(), self.read, self.written)


class DeflatedSource:
    """The `size` bytes to which those at a place (offset and length) of `file` inflate.

    Reading forwards is linear; what is read to its end has been checked against `crc`.
    """

    def __init__(
        self, name: str, file: ByteSource, place: tuple[int, int], size: int, crc: int
    ) -> None:
        self.name = name
        self.size = size
        self._file = file
        self._offset, self._compressed = place
        self._crc = crc
        self._found_crc, self._checked = 0, 0  # of the first so many bytes
        self._state = _State(zlib.decompressobj(-zlib.MAX_WBITS))
        self._waypoints = [self._state.copy()]
        self._stride = max(1 << 20, size // _WAYPOINTS)
        self._lock = threading.Lock()

    def read_into(self, offset: int, buffer: memoryview) -> int:
        with self._lock:
            self._go_to(min(offset, self.size))
            length = max(0, min(len(buffer), self.size - offset))
            filled = 0
            while filled < length:
                part = self._next(length - filled)
                buffer[filled : filled + len(part)] = part
                filled += len(part)
            if self._state.written == self.size:
                self._finish()
            return length

    def close(self) -> None:
        """The file belongs to the archive."""

    def _go_to(self, offset: int) -> None:
        if offset < self._state.written or offset >= self._state.written + 2 * self._stride:
            near = max((p for p in self._waypoints if p.written <= offset), key=lambda p: p.written)
            if offset < self._state.written or near.written > self._state.written:
                self._state = near.copy()
        while self._state.written < offset:
            self._next(offset - self._state.written)

    def _next(self, most: int) -> bytes:
        """Between 1 and `most` further bytes."""
        state = self._state
        part = b""
        while not part:
            data = state.inflater.unconsumed_tail or self._input(state)
            try:
                part = state.inflater.decompress(data, min(most, _BLOCK))
            except zlib.error as error:
                raise DamagedError(f"{self.name} does not inflate: {error}") from None
            if not part and (state.inflater.eof or not data):
                raise DamagedError(
                    f"{self.name} inflates to {state.written} bytes, not to {self.size}"
                )
        state.written += len(part)
        self._count(part)
        if state.written >= self._waypoints[-1].written + self._stride:
            self._waypoints.append(state.copy())
        return part

    def _input(self, state: _State) -> bytes:
        length = min(_BLOCK, self._compressed - state.read)
        data = bytes(read_exactly(self._file, self._offset + state.read, length))
        state.read += length
        return data

    def _count(self, part: bytes) -> None:
        """The checksum grows with the bytes that come for the first time."""
        new = self._state.written - self._checked
        if new > 0:
            self._found_crc = zlib.crc32(part[len(part) - new :], self._found_crc)
            self._checked += new

    def _finish(self) -> None:
        if self._found_crc != self._crc:
            raise DamagedError(
                f"{self.name} is damaged: expected the checksum {self._crc:08x}, "
                f"found {self._found_crc:08x}"
            )
        state = self._state.copy()
        while not state.inflater.eof:
            data = state.inflater.unconsumed_tail or self._input(state)
            try:
                more = state.inflater.decompress(data, 1)
            except zlib.error as error:
                raise DamagedError(f"{self.name} does not inflate: {error}") from None
            if more or not data:
                raise DamagedError(f"{self.name} does not end after its {self.size} bytes")
        if state.inflater.unused_data or state.read != self._compressed:
            raise DamagedError(f"{self.name} has bytes behind its end")
