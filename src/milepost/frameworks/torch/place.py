"""Putting values into tensors where they are."""

from __future__ import annotations

import functools
from typing import Any

import torch

from milepost.dtypes import Array
from milepost.frameworks.base import Saved
from milepost.frameworks.torch.tensors import from_array, to_array


def place(saved: Saved, name: str, tensor: torch.Tensor) -> None:
    """Let a tensor have the value of a leaf, when all leaves have found their places."""
    into = _own_memory(tensor)
    saved.place(name, functools.partial(_copy, tensor), into)
    if into is not None:
        # Reading into memory goes past PyTorch, which counts changes for the backward pass.
        saved.later(torch.autograd.graph.increment_version, tensor)


def _own_memory(tensor: torch.Tensor) -> Array | None:
    """The memory of a tensor, if it is plain numbers of a CPU."""
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type == "cpu"
    if not plain or tensor.is_conj() or tensor.is_neg():
        return None
    return to_array(tensor)


def _copy(tensor: torch.Tensor, array: Any) -> None:
    with torch.no_grad():
        tensor.copy_(from_array(array))
