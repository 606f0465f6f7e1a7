"""NumPy's arrays and scalars in a pickle: the calls that would make them, and their numbers.

https://github.com/numpy/numpy/blob/main/numpy/_core/src/multiarray/methods.c (array_reduce)
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from milepost.dtypes import Array
from milepost.encodings.pickle import Call
from milepost.limits import is_shape, shown

_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
# Made whole by a state that comes later: these stay calls until they are asked for.
CALLS = frozenset((*_RECONSTRUCT, *_SCALARS, *_FROM_BUFFER, "numpy.dtype"))


def array_of(call: Call) -> Array | None:
    """The array, or scalar, of a call of NumPy's; None if it has objects in it.

    Raises:
        ValueError, TypeError, IndexError: it is not valid.
    """
    name = str(call.function)
    if name in _RECONSTRUCT:
        state: Any = call.state
        _, shape, dtype, fortran, data = state if len(state) == 5 else (1, *state)
        return _filled(data, _numpy_dtype(dtype), shape, "F" if fortran else "C")
    if name in _SCALARS:
        return _filled(call.args[1], _numpy_dtype(call.args[0]), (), "C")
    if name in _FROM_BUFFER:
        data, dtype, shape, order = call.args
        return _filled(data, _numpy_dtype(dtype), shape, str(order))
    return None


def _filled(data: Any, dtype: np.dtype[Any] | None, shape: Any, order: str) -> Array | None:
    if dtype is None or order not in ("C", "F"):
        return None
    raw = data.encode() if isinstance(data, str) else data
    if not isinstance(raw, bytes | bytearray):
        raise TypeError("the numbers of an array are no bytes")
    sizes = list(shape)
    if not is_shape(sizes):
        raise ValueError(f"{shown(shape)} is no shape")
    values = np.frombuffer(raw, dtype).reshape(sizes, order="F" if order == "F" else "C")
    return values.astype(dtype.newbyteorder("="))


def _numpy_dtype(value: Any) -> np.dtype[Any] | None:
    """NumPy's dtype of a call that makes it; None if it is not of plain numbers."""
    if not isinstance(value, Call) or str(value.function) != "numpy.dtype":
        raise TypeError(f"{shown(value)} is no dtype")
    text: Any = value.args[0]
    text = text.decode() if isinstance(text, bytes) else text
    if not isinstance(text, str) or len(text) > 40 or text[:1] not in "biufcM m":
        return None
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "="
    if order not in ("<", ">", "|", "=") or text[:1] in "mM":
        return None
    with contextlib.suppress(TypeError, ValueError):
        dtype = np.dtype(text)
        if dtype.names is None and dtype.subdtype is None and dtype.kind in "biufc":
            return dtype.newbyteorder(">" if order == ">" else "<")
    return None
