"""A look into a large file: past the page cache, where the cache has not got it.

A disk gives a few megabytes past the cache in half the time that they take through it. But
then they are there for nobody else: whoever reads much of a file, or looks at the same again,
reads through it.
"""

from __future__ import annotations

import os
import sys

from milepost.buffers import BLOCK, address

LEAST_BYTES = 1 << 18  # of less, asking costs more than it saves

if sys.platform == "linux":

    def look(handle: int, offset: int, buffer: memoryview) -> int | None:
        """Fill `buffer` from a file that is open for reading; returns how many bytes there were.

        It must lie in memory as far from a boundary between blocks as in the file.

        Returns None, and may have written to the buffer, where the file is to be read as any:
        it is in the cache, or cannot be read past it.
        """
        head = -offset % BLOCK
        whole = (len(buffer) - head) // BLOCK * BLOCK
        if whole < LEAST_BYTES or (address(buffer) - offset) % BLOCK:
            return None
        try:
            if _is_cached(handle, offset + len(buffer) // 2):
                return None
            # The file that is open, whatever has its name by now, and a handle of its own:
            # other threads read through the cache meanwhile.
            direct = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
            try:
                found = os.preadv(direct, [buffer[head : head + whole]], offset + head)
            finally:
                os.close(direct)
            if found < whole:  # a file that ends early: whoever reads it as any says so
                return None
            ends = (slice(0, head), slice(head + whole, len(buffer)))
            return whole + sum(_read(handle, offset + end.start, buffer[end]) for end in ends)
        except OSError:  # what it is, whoever reads it as any finds out
            return None

    def _is_cached(handle: int, offset: int) -> bool:
        """Whether a byte is in the cache. If not, now it is: who looks again reads through it."""
        try:
            return _read(handle, offset, memoryview(bytearray(1)), os.RWF_NOWAIT) == 1
        except BlockingIOError:
            return False

    def _read(handle: int, offset: int, buffer: memoryview, flags: int = 0) -> int:
        return os.preadv(handle, [buffer], offset, flags) if buffer else 0

else:

    def look(handle: int, offset: int, buffer: memoryview) -> int | None:
        """Nowhere else can a system be asked what its page cache holds."""
        return None
