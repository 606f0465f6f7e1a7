"""NumPy's arrays and scalars in a pickle: the calls that would make them, and their numbers.

https://github.com/numpy/numpy/blob/main/numpy/_core/src/multiarray/methods.c (array_reduce)
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from milepost.dtypes import Array
from milepost.encodings.pickle import Call, described
from milepost.limits import is_shape

# What numbers are called there; 16 bytes may be more than a machine's long double has.
_NUMBERS = re.compile(r"[biu][1248]|f[248]|c8|c16")
# A scalar of Python 2 is a text. One as long as an array would be copied wherever it is named.
_MAX_TEXT = 64
_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
# Made whole by a state that comes later: these stay calls until they are asked for.
CALLS = frozenset((*_RECONSTRUCT, *_SCALARS, *_FROM_BUFFER, "numpy.dtype"))


def array_of(call: Call) -> Array | None:
    """The array, or scalar, of a call of NumPy's, of either byte order; None if it has objects.

    Raises:
        ValueError, TypeError, IndexError: it is not valid.
    """
    name = described(call.function)
    if name in _RECONSTRUCT:
        state: Any = call.state
        _, shape, dtype, fortran, data = state if len(state) == 5 else (1, *state)
        return _filled(data, _numpy_dtype(dtype), shape, "F" if fortran else "C")
    if name in _SCALARS:
        return _filled(call.args[1], _numpy_dtype(call.args[0]), (), "C")
    if name in _FROM_BUFFER:
        data, dtype, shape, order = call.args
        return _filled(data, _numpy_dtype(dtype), shape, order)
    return None


def _filled(data: Any, dtype: np.dtype[Any] | None, shape: Any, order: Any) -> Array | None:
    if dtype is None or order not in ("C", "F") or isinstance(data, list):
        return None
    raw = data.encode() if isinstance(data, str) and len(data) <= _MAX_TEXT else data
    if not isinstance(raw, bytes | bytearray):
        raise TypeError("the numbers of an array are no bytes")
    sizes = list(shape)
    if not is_shape(sizes):
        raise ValueError(f"{described(shape)} is no shape")
    values: Array = np.frombuffer(raw, dtype)
    return values.reshape(sizes, order="F" if order == "F" else "C")


def _numpy_dtype(value: Any) -> np.dtype[Any] | None:
    """NumPy's dtype of a call that makes it; None if it is not of plain numbers."""
    if not isinstance(value, Call) or described(value.function) != "numpy.dtype":
        raise TypeError(f"{described(value)} is no dtype")
    text: Any = value.args[0]
    if not isinstance(text, str) or not _NUMBERS.fullmatch(text):
        return None
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "="
    return np.dtype(text).newbyteorder(">" if order == ">" else "<")
