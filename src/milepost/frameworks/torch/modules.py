"""PyTorch modules: parameters, buffers and extra state, under `state_dict`'s own names."""

from __future__ import annotations

from typing import Any

import torch

from milepost.errors import UnsupportedObjectError
from milepost.frameworks.base import Capture, Saved
from milepost.frameworks.torch.tensors import from_array
from milepost.state import join
from milepost.tree import Structure, children


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The user's own module inside of what `torch.compile` or DDP put around it.

    So that a leaf has the same name whether or not the model was compiled or distributed.
    """
    wrapped: Any = module
    while True:
        if isinstance(wrapped, torch._dynamo.eval_frame.OptimizedModule):
            wrapped = wrapped._orig_mod
        elif isinstance(wrapped, torch.nn.parallel.DistributedDataParallel | torch.nn.DataParallel):
            wrapped = wrapped.module
        else:
            return wrapped  # type: ignore[no-any-return]


def capture(module: torch.nn.Module, name: str, capture: Capture) -> Structure:
    items = []
    for key, item in unwrapped(module).state_dict(keep_vars=True).items():
        child = join(name, key)
        if torch.nn.parameter.is_lazy(item):
            raise UnsupportedObjectError(
                f"{child} has no shape yet: its module is lazy; run one batch first"
            )
        # What is no tensor is a module's own extra state, of whatever kind.
        is_tensor = isinstance(item, torch.Tensor)
        items.append(
            [key, capture.child(child, item) if is_tensor else capture.replaced(child, item)]
        )
    return {"dict": items}


def apply(module: torch.nn.Module, name: str, node: Structure, saved: Saved) -> Any:
    nodes = dict(children(node))
    inner = unwrapped(module)
    state = inner.state_dict()
    has_values = not any(isinstance(item, torch.Tensor) and item.is_meta for item in state.values())
    for key in state:
        child = join(name, key)
        if isinstance(state[key], torch.Tensor):
            if saved.has(child):
                state[key] = from_array(saved.leaves[child])
        elif key in nodes and saved.can_build(child, nodes[key]):
            state[key] = saved.build(child, nodes[key])
    if has_values:
        inner.load_state_dict(state)
        return module
    # A model just built without values takes the tensors themselves, and shares them again
    # where it shared its own.
    shared = ties(inner)
    inner.load_state_dict(state, assign=True)
    for key, first in shared.items():
        set_tensor(inner, key, get_tensor(inner, first))
    return module


def ties(module: torch.nn.Module) -> dict[str, str]:
    """The name of each parameter that stands in several places -> its first name."""
    first: dict[int, str] = {}
    names = [(name, p) for name, p in module.named_parameters(remove_duplicate=False)]
    return {n: first[id(p)] for n, p in names if first.setdefault(id(p), n) != n}


def get_tensor(module: torch.nn.Module, name: str) -> torch.Tensor | None:
    """The parameter or buffer of that name, or None."""
    path, _, key = name.rpartition(".")
    try:
        value = getattr(module.get_submodule(path), key, None)
    except AttributeError:
        return None
    return value if isinstance(value, torch.Tensor) else None


def set_tensor(module: torch.nn.Module, name: str, tensor: torch.Tensor | None) -> None:
    """Put another tensor in the place of a parameter or buffer."""
    path, _, key = name.rpartition(".")
    setattr(module.get_submodule(path), key, tensor)
