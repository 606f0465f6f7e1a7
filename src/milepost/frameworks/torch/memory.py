"""Which tensors lie over one another in memory, on any device, the meta device too."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch


def overlap(state: Mapping[str, Any]) -> tuple[str, str] | None:
    """The names of two different tensors that have an element in common; None if none do."""
    unique = {id(tensor): (name, tensor) for name, tensor in state.items()}
    storages: dict[int, list[tuple[str, torch.Tensor]]] = {}
    for name, tensor in unique.values():
        if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
            storage = tensor.untyped_storage()._cdata
            storages.setdefault(storage, []).append((name, tensor))
    for inside in storages.values():
        for (name, a), (other, b) in itertools.combinations(inside, 2):
            if _shares_element(a, b):
                return name, other
    return None


def _shares_element(a: torch.Tensor, b: torch.Tensor) -> bool:
    try:
        # NumPy takes any number here, whatever its annotation says.
        work: Any = 100_000
        return np.shares_memory(_footprint(a), _footprint(b), max_work=work)
    except RuntimeError:  # too hard to tell
        return True


def _footprint(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """An array that lies in its memory as the tensor lies in its storage; never to be read."""
    size = tensor.element_size()
    interface = {
        "version": 3,
        "typestr": f"|V{size}",
        "shape": tuple(tensor.shape),
        "strides": tuple(stride * size for stride in tensor.stride()),
        # Any address will do: it is the distances that count.
        "data": (4096 + tensor.storage_offset() * size, True),
    }
    return np.asarray(SimpleNamespace(__array_interface__=interface))
