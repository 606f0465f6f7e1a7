"""Memory for data on its way between a file and an array."""

from __future__ import annotations

from typing import Any

import numpy as np

from milepost.dtypes import Array

# Of arrays: a cache line, which vector instructions and frameworks may rely on.
ALIGNMENT = 64


def aligned(nbytes: int, boundary: int = ALIGNMENT) -> Array:
    """So many bytes of fresh memory, from an address that is a multiple of `boundary`.

    NumPy asks for huge pages where there are any, but aligns to a few bytes only.
    """
    memory: Any = np.empty(nbytes + boundary, np.uint8)
    start = -memory.ctypes.data % boundary
    result: Array = memory[start : start + nbytes]
    return result
