"""Protobuf's packed numbers of no fixed length, read from a file by index.

https://protobuf.dev/programming-guides/encoding/#packed. The last byte of each is below 128:
counting these, block by block, tells where a number is to be found.
"""

from __future__ import annotations

import threading
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from milepost.errors import DamagedError
from milepost.source import ByteSource, read_exactly

_BLOCK = 1 << 20
_LONGEST = 10


class Varints:
    """The numbers in `length` bytes at `position` of a file. Threads may share it."""

    def __init__(self, source: ByteSource, position: int, length: int) -> None:
        self._source = source
        self._position = position
        self._length = length
        self._counts: list[int] = []  # the numbers that end before each block, once it is counted
        self._lock = threading.Lock()

    def read(self, first: int, stop: int, count: int) -> npt.NDArray[np.uint64]:
        """The numbers from `first` up to `stop`, of `count` in all.

        Raises:
            DamagedError: there are more or fewer, or one has no end.
        """
        counts = self._counted()
        if counts[-1] != count:
            raise DamagedError(
                f"{self._source.name} is damaged: expected {count} numbers at byte "
                f"{self._position}, found {counts[-1]}"
            )
        if first >= stop:
            return np.empty(0, np.uint64)
        # The blocks in which the number before the first one ends, and the last one.
        begin = max(0, int(np.searchsorted(counts, max(first, 1), "left")) - 1)
        end = int(np.searchsorted(counts, stop, "left"))
        start = begin * _BLOCK
        nbytes = min(self._length, end * _BLOCK) - start
        data = read_exactly(self._source, self._position + start, nbytes)
        return decode(data, first - counts[begin], stop - counts[begin], self._source.name)

    def _counted(self) -> list[int]:
        with self._lock:
            if not self._counts:
                blocks = (
                    np.frombuffer(
                        read_exactly(
                            self._source,
                            self._position + start,
                            min(_BLOCK, self._length - start),
                        ),
                        np.uint8,
                    )
                    for start in range(0, self._length, _BLOCK)
                )
                ends = (int(np.count_nonzero(block < 0x80)) for block in blocks)
                self._counts = list(accumulate(ends, initial=0))
            return self._counts


def decode(data: bytes | bytearray, first: int, stop: int, name: str) -> npt.NDArray[np.uint64]:
    """The numbers in `data` from `first` up to `stop`, by where they end.

    Raises:
        DamagedError: one is longer than a number can be.
    """
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    last = ends[first:stop]
    begins = np.empty_like(last)
    begins[1:] = last[:-1] + 1
    begins[:1] = ends[first - 1] + 1 if first else 0
    lengths = last - begins + 1
    if lengths.size and int(lengths.max()) > _LONGEST:
        raise DamagedError(f"{name} is damaged: a number of {lengths.max()} bytes")
    values = np.zeros(len(last), np.uint64)
    for place in range(int(lengths.max(initial=0))):
        longer = lengths > place
        digits = (raw[begins[longer] + place] & 0x7F).astype(np.uint64)
        values[longer] |= digits << np.uint64(7 * place)
    return values
