"""Tensors to arrays and back, without a copy where memory can be shared."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from milepost import dtypes
from milepost.dtypes import Array
from milepost.errors import UnsupportedObjectError

_SHARED = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
# NumPy has no such dtypes of its own: their bytes pass as integers of the same size.
_AS_INTEGER = {
    "bfloat16": torch.int16,
    "float8_e4m3fn": torch.uint8,
    "float8_e4m3fnuz": torch.uint8,
    "float8_e5m2": torch.uint8,
    "float8_e5m2fnuz": torch.uint8,
    "float8_e8m0fnu": torch.uint8,
}
_NAMES: dict[torch.dtype, str] = {
    getattr(torch, name): name for name in (*_SHARED, *_AS_INTEGER) if hasattr(torch, name)
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


class TensorLeaf:
    """A tensor as a leaf: described at once, brought to the host when it is read."""

    def __init__(self, name: str, tensor: torch.Tensor) -> None:
        _check(name, tensor)
        self._name = name
        self._tensor = tensor.detach()
        self.dtype: np.dtype[Any] = dtypes.numpy_dtype(_NAMES[tensor.dtype])
        self.shape: tuple[int, ...] = tuple(tensor.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if self._tensor.is_meta:
            raise UnsupportedObjectError(
                f"{self._name} is on the meta device and has no value to save"
            )
        return to_array(self._tensor)


def _check(name: str, tensor: torch.Tensor) -> None:
    """Raise UnsupportedObjectError unless the tensor is plain numbers in memory."""
    problem = None
    if tensor.layout != torch.strided:
        problem = f"has the layout {tensor.layout}: save its dense form, or its parts"
    elif tensor.dtype not in _NAMES:
        problem = f"has the dtype {tensor.dtype}, which milepost does not know"
    elif tensor.is_nested:
        problem = "is a nested tensor: save its parts"
    if problem:
        raise UnsupportedObjectError(f"{name} {problem}")


def check_changeable(name: str, tensor: torch.Tensor) -> None:
    """Raise UnsupportedObjectError unless values can be copied into the tensor where it is."""
    problem = None
    if tensor.is_meta:
        problem = (
            "is on the meta device and has no values: make it real first, "
            'a module by module.to_empty(device="cpu"), and its optimizer after that'
        )
    elif tensor.is_inference() and not torch.is_inference_mode_enabled():
        problem = (
            "was made in torch.inference_mode, so no value can be put into it: "
            "clone it outside of that mode"
        )
    elif _is_expanded(tensor):
        problem = (
            f"has the shape {list(tensor.shape)} but fewer elements in memory, because it was "
            "expanded, so no values can be put into it: call .contiguous() on it"
        )
    if problem:
        raise UnsupportedObjectError(f"{name} {problem}")


def _is_expanded(tensor: torch.Tensor) -> bool:
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.numel() > 1 and any(size > 1 and stride == 0 for size, stride in sizes)


def to_array(tensor: torch.Tensor) -> Array:
    """The tensor as an array; of a CPU tensor, over the same memory."""
    host = tensor.detach().cpu().resolve_conj().resolve_neg()
    name = _NAMES[host.dtype]
    if name in _AS_INTEGER:
        return host.view(_AS_INTEGER[name]).numpy().view(dtypes.numpy_dtype(name))
    return host.numpy()


def from_array(array: Any) -> torch.Tensor:
    """A CPU tensor over the memory of `array`, which must not be used otherwise afterwards."""
    array = np.asarray(array)
    name = dtypes.dtype_name(array.dtype)
    if not array.flags.writeable or not array.flags.c_contiguous:
        array = np.array(array, order="C")
    if name in _AS_INTEGER:
        integers = array.view(np.int16 if _AS_INTEGER[name] is torch.int16 else np.uint8)
        return torch.from_numpy(integers).view(_DTYPES[name])
    return torch.from_numpy(array)


def memory(tensor: torch.Tensor) -> tuple[Any, ...] | None:
    """What is the same for tensors that show the same memory in the same way."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.numel() == 0:
        return None
    shape, stride = tuple(tensor.shape), tuple(tensor.stride())
    return ("torch", str(tensor.device), tensor.data_ptr(), shape, stride, str(tensor.dtype))
