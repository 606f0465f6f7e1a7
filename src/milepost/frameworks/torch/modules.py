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
        if isinstance(item, torch.nn.parameter.UninitializedTensorMixin):
            raise UnsupportedObjectError(
                f"{child} has no shape yet: its module is lazy; run one batch through the model first"
            )
        # What is no tensor is a module's own extra state, of whatever kind.
        is_tensor = isinstance(item, torch.Tensor)
        items.append([key, capture.child(child, item) if is_tensor else capture.replaced(child, item)])
    return {"dict": items}


def apply(module: torch.nn.Module, name: str, node: Structure, saved: Saved) -> Any:
    nodes = dict(children(node))
    inner = unwrapped(module)
    state = inner.state_dict()
    for key in state:
        child = join(name, key)
        if isinstance(state[key], torch.Tensor):
            if saved.has(child):
                state[key] = from_array(saved.leaves[child])
        elif key in nodes and saved.can_build(child, nodes[key]):
            state[key] = saved.build(child, nodes[key])
    inner.load_state_dict(state)
    return module
