"""PyTorch: tensors, modules, optimizers and generators.

Schedulers, gradient scalers and data loaders need nothing of their own: they have
`state_dict`, which `python` handles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from milepost.frameworks.base import Capture, Saved
from milepost.frameworks.torch import modules, optimizer
from milepost.frameworks.torch.export import export
from milepost.frameworks.torch.place import place
from milepost.frameworks.torch.predict import predict, surroundings
from milepost.frameworks.torch.structure import build, describe
from milepost.frameworks.torch.tensors import TensorLeaf, check_changeable, from_array, memory
from milepost.state import join
from milepost.tree import Structure

__all__ = [
    "ARRAYS",
    "apply",
    "build",
    "capture",
    "copied",
    "describe",
    "export",
    "global_generators",
    "handles",
    "parameter_names",
    "predict",
    "surroundings",
]

ARRAYS = {"torch": from_array}


def handles(value: Any) -> bool:
    return isinstance(
        value, torch.Tensor | torch.nn.Module | torch.optim.Optimizer | torch.Generator
    )


def capture(value: Any, name: str, capture: Capture) -> Structure:
    if isinstance(value, torch.Tensor):
        leaf = TensorLeaf(name, value)
        if not modules.is_being_built(capture.objects):
            check_changeable(name, value)
        capture.leaf(name, leaf, memory=memory(value), late=True)
        return {"leaf": "torch"}
    if isinstance(value, torch.Generator):
        return capture.opaque(name, {"state": value.get_state()})
    if isinstance(value, torch.optim.Optimizer):
        return optimizer.capture(value, name, capture)
    return modules.capture(value, name, capture)


def apply(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    if isinstance(value, torch.Tensor):
        return _apply_tensor(value, name, saved)
    if isinstance(value, torch.Generator):
        if saved.can_build(name, node):
            state = saved.build(name, node)["state"]
            saved.at_once(value.set_state, state, value.get_state())
        return value
    if isinstance(value, torch.optim.Optimizer):
        return optimizer.apply(value, name, node, saved)
    return modules.apply(value, name, node, saved)


def parameter_names(value: Any, name: str) -> dict[int, str]:
    if not isinstance(value, torch.nn.Module):
        return {}
    named = modules.unwrapped(value).named_parameters(remove_duplicate=False)
    return {
        id(parameter): join(name, modules.own_name(key)) for key, parameter in reversed(list(named))
    }


def copied(value: Any, copied: Callable[[Any], Any]) -> Any:
    """A tensor of its own; modules and what belongs to them are restored in place."""
    is_value = isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter)
    return value.detach().clone().requires_grad_(value.requires_grad) if is_value else value


def _apply_tensor(tensor: torch.Tensor, name: str, saved: Saved) -> torch.Tensor:
    if saved.has(name):
        place(saved, name, tensor)
    return tensor


def global_generators(wanted: frozenset[str]) -> dict[str, Any]:
    """The generator of the CPU, and of every GPU once CUDA is in use."""
    found: dict[str, Any] = {"torch": torch.default_generator}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for index, generator in enumerate(torch.cuda.default_generators):
            found[f"torch_cuda_{index}"] = generator
    return found
