"""Values for Keras variables without a copy, and zeros without memory, on TensorFlow.

TensorFlow copies an array that becomes a tensor, and fills a new variable's memory, both of
which a load has no use for. A tensor may lie in NumPy's memory instead: TensorFlow keeps that
alive, and never writes to memory that is not its own, so a variable moves to memory of
TensorFlow's with its first update.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import numpy as np

import keras
from milepost import dtypes
from milepost.buffers import ALIGNMENT
from milepost.dtypes import Array

_WORTHWHILE = 1 << 16  # bytes


def without_copy(array: Array) -> Any:
    """A tensor in the memory of an array that nobody writes to any more, or else the array."""
    large = array.nbytes >= _WORTHWHILE and array.ctypes.data % ALIGNMENT == 0
    if not large or not array.flags.c_contiguous or keras.backend.backend() != "tensorflow":
        return array
    import tensorflow

    try:
        return tensorflow.experimental.dlpack.from_dlpack(array.__dlpack__())
    except (BufferError, TypeError):  # bfloat16 and its like, or read-only memory
        return array


@contextlib.contextmanager
def untouched_zeros() -> Iterator[None]:
    """Variables made inside that begin as zeros take no memory until they have other values."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow

    def create(make: Callable[..., Any], **options: Any) -> Any:
        zeros = _zeros(options.get("initial_value"))
        return make(**(options if zeros is None else {**options, "initial_value": zeros}))

    with tensorflow.variable_creator_scope(create):
        yield


def _zeros(initial_value: Any) -> Callable[[], Any] | None:
    """The same zeros as Keras's `lambda: initializer(self._shape, ...)` makes, if it makes any."""
    if not isinstance(initial_value, FunctionType):
        return None
    cells = zip(initial_value.__code__.co_freevars, initial_value.__closure__ or (), strict=True)
    found = {name: cell.cell_contents for name, cell in cells}
    variable = found.get("self")
    if type(found.get("initializer")) is not keras.initializers.Zeros:
        return None
    if not isinstance(variable, keras.Variable):
        return None

    def zeros() -> Any:
        dtype = dtypes.numpy_dtype(variable.dtype)
        nbytes = math.prod(variable.shape) * dtype.itemsize
        if nbytes < _WORTHWHILE:
            return initial_value()
        memory = np.frombuffer(mmap.mmap(-1, nbytes), dtype)  # cleared when it is touched
        tensor = without_copy(memory.reshape(tuple(variable.shape)))
        return initial_value() if isinstance(tensor, np.ndarray) else tensor

    return zeros
