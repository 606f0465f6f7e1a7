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
from milepost.buffers import ALIGNMENT, aligned
from milepost.dtypes import Array

_WORTHWHILE = 1 << 16  # bytes


def without_copy(array: Array) -> Any:
    """A tensor in the memory of an array that nobody writes to any more, or else the array."""
    if array.nbytes < _WORTHWHILE or keras.backend.backend() != "tensorflow":
        return array
    tensor = _tensor(array)
    return array if tensor is None else tensor


def _tensor(array: Array) -> Any:
    """A tensor of TensorFlow's in the memory of an array, if there can be one."""
    if array.ctypes.data % ALIGNMENT or not array.flags.c_contiguous:
        return None
    import tensorflow

    try:
        return tensorflow.experimental.dlpack.from_dlpack(array.__dlpack__())
    except (BufferError, TypeError):  # bfloat16 and its like, or read-only memory
        return None


def memory(variable: keras.Variable) -> Array | None:
    """A variable's own memory, if values can be read straight into it: on PyTorch, on the CPU."""
    if keras.backend.backend() != "torch":
        return None
    tensor: Any = variable._value
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        return None
    try:
        return np.asarray(tensor.detach().numpy())
    except (TypeError, RuntimeError):  # bfloat16, which NumPy does not know; or no plain tensor
        return None


def count_change(variable: keras.Variable) -> None:
    """Tell PyTorch, which counts changes for the backward pass, of one that went past it."""
    import torch

    torch.autograd.graph.increment_version(variable._value)


def assign(variable: keras.Variable, array: Array) -> None:
    """Give a variable the values of an array of its shape and dtype that nobody writes to any more.

    Keras's own `assign` reads a TensorFlow variable once more: half of the time, for a small one.
    """
    if keras.backend.backend() != "tensorflow" or keras.src.backend.in_stateless_scope():
        variable.assign(array)
        return
    import tensorflow

    tensor = tensorflow.convert_to_tensor(without_copy(array), variable._value.dtype)
    variable._value.assign(tensor, read_value=False)


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
        array = untouched(tuple(variable.shape), dtypes.numpy_dtype(variable.dtype))
        tensor = _tensor(array)
        return initial_value() if tensor is None else tensor

    return zeros


def untouched(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Zeros, aligned; if they are many, in memory that the system clears when it is touched."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < _WORTHWHILE:
        memory = aligned(nbytes)
        memory[:] = 0
    else:
        memory = np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)
    return memory.view(dtype).reshape(shape)
