"""Memory for data on its way between a file and an array, and for new arrays."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from milepost.digest import Buffer
from milepost.dtypes import Array, numpy_dtype

# Of arrays: a cache line, which vector instructions and frameworks may rely on.
ALIGNMENT = 64
# Of what is written past the page cache: a multiple of every disk's own block.
BLOCK = 4096
# Smaller arrays lie together, in memory of which each keeps all alive.
_SMALL_BYTES, _SHARED_BYTES = 1 << 14, 1 << 18


def aligned(nbytes: int, boundary: int = ALIGNMENT) -> Array:
    """So many bytes of fresh memory, from an address that is a multiple of `boundary`.

    NumPy asks for huge pages where there are any, but aligns to a few bytes only.
    """
    memory: Any = np.empty(nbytes + boundary, np.uint8)
    start = -memory.ctypes.data % boundary
    result: Array = memory[start : start + nbytes]
    return result


def address(data: Buffer) -> int:
    """Where bytes begin in memory."""
    found: int = np.frombuffer(data, np.uint8).ctypes.data
    return found


def copy(source: Buffer, target: Buffer) -> None:
    """Copy bytes into as many others, without Python's lock."""
    np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))


class Buffers:
    """Memory that is used again and again: fresh memory costs more to touch than to fill.

    Threads may share one. A copy or a pickle of one begins empty.
    """

    def __init__(self, most: int | None, boundary: int) -> None:
        """At most so many buffers are kept for later, or all; each is aligned to `boundary`."""
        self._most, self._boundary = most, boundary
        self._free: list[Array] = []
        self._turn = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Buffers, (self._most, self._boundary)

    def take(self, nbytes: int) -> Array:
        """A buffer of so many bytes or more, whatever is in it."""
        with self._turn:
            for index, buffer in enumerate(self._free):
                if len(buffer) >= nbytes:
                    return self._free.pop(index)
            self._free.clear()  # what is too small now will hardly be wanted again
        return aligned(nbytes, self._boundary)

    def give(self, buffer: Array) -> None:
        """Take a buffer back that nobody uses any more."""
        with self._turn:
            if self._most is None or len(self._free) < self._most:
                self._free.append(buffer)


def new_array(dtype: str, shape: Sequence[int], at: int = 0) -> Array:
    """An array, not filled, for what begins at the byte `at` of a file.

    If it can, it lies as far from a block's boundary as that, to be read past the page cache.
    """
    kind = numpy_dtype(dtype)
    nbytes = math.prod(shape) * kind.itemsize
    if nbytes < _SMALL_BYTES or at % ALIGNMENT:
        return aligned(nbytes).view(kind).reshape(shape)
    start = at % BLOCK
    return aligned(start + nbytes, BLOCK)[start:].view(kind).reshape(shape)


class NewArrays:
    """Memory for many new arrays, of which small ones lie together."""

    def __init__(self) -> None:
        self._shared, self._used = aligned(0), 0

    def array(self, dtype: str, shape: Sequence[int]) -> Array:
        """An array that is aligned, and not filled."""
        kind = numpy_dtype(dtype)
        nbytes = math.prod(shape) * kind.itemsize
        if nbytes >= _SMALL_BYTES:
            return new_array(dtype, shape)
        start = self._used
        if start + nbytes > len(self._shared):
            self._shared, start = aligned(_SHARED_BYTES), 0
        self._used = start + nbytes + -nbytes % ALIGNMENT
        return np.ndarray(shape, kind, self._shared, start)
