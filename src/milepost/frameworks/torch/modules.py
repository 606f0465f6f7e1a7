"""PyTorch modules: parameters, buffers and extra state, under `state_dict`'s own names."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from milepost.errors import UnsupportedObjectError
from milepost.frameworks.base import Capture, Saved
from milepost.frameworks.torch.place import place
from milepost.frameworks.torch.tensors import from_array, memory
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


def own_name(key: str) -> str:
    """A name in a module as it is without `torch.compile` around one of the parts."""
    return ".".join(part for part in key.split(".") if part != "_orig_mod")


def is_being_built(objects: Mapping[str, Any]) -> bool:
    """Whether this is the model of `save_model` or `load_model`, which alone has no name.

    Then nothing else holds its tensors, and others may take their places.
    """
    return list(objects) == [""]


def capture(module: torch.nn.Module, name: str, capture: Capture) -> Structure:
    items = []
    for key, item in unwrapped(module).state_dict(keep_vars=True).items():
        child = join(name, own_name(key))
        if torch.nn.parameter.is_lazy(item):
            raise UnsupportedObjectError(
                f"{child} has no shape yet: its module is lazy; run one batch first"
            )
        # What is no tensor is a module's own extra state, of whatever kind.
        is_tensor = isinstance(item, torch.Tensor)
        items.append(
            [
                own_name(key),
                capture.child(child, item) if is_tensor else capture.opaque(child, item),
            ]
        )
    return {"dict": items}


def apply(module: torch.nn.Module, name: str, node: Structure, saved: Saved) -> Any:
    nodes = dict(children(node))
    inner = unwrapped(module)
    state = inner.state_dict()
    has_values = not any(isinstance(item, torch.Tensor) and item.is_meta for item in state.values())
    own = _own_tensors(inner)
    restored = {}
    for key, item in state.items():
        child, child_node = join(name, own_name(key)), nodes.get(own_name(key))
        if isinstance(item, torch.Tensor):
            if not saved.has(child):
                continue
            if saved.is_late(child) and memory(item) in own:
                place(saved, child, own[memory(item)])  # `item` is what it holds then
            else:
                restored[key] = _in_the_place_of(item, from_array(saved.leaves[child]))
        elif own_name(key) in nodes and saved.can_build(child, child_node):
            restored[key] = saved.build(child, child_node)
    state.update(restored)
    if is_being_built(saved.objects) and not has_values:
        saved.later(_assign, inner, state)
    else:
        _set_extra_state(inner, restored, saved)
        saved.later(inner.load_state_dict, state)
    return module


def _own_tensors(module: torch.nn.Module) -> dict[Any, torch.Tensor]:
    """Its parameters and buffers, by their memory: what `state_dict` hands out may be others."""
    tensors = (*module.parameters(), *module.buffers())
    return {memory(tensor): tensor for tensor in tensors if memory(tensor) is not None}


def _in_the_place_of(item: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that may replace one without values: it lies in memory as that does."""
    as_it_is = not item.is_meta or item.stride() == tensor.stride() or item.shape != tensor.shape
    return tensor if as_it_is else laid_out(tensor, item.stride())


def laid_out(tensor: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
    """The same values, lying in memory by other strides."""
    new = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
    return new.copy_(tensor)


def _assign(module: torch.nn.Module, state: dict[str, Any]) -> None:
    """Let a model without values take the tensors themselves, and share what it shared."""
    shared = ties(module)
    # What a constructor has noted on its parameters: that they are not to decay, say.
    before = module.state_dict(keep_vars=True).items()
    notes = {name: vars(tensor) for name, tensor in before if isinstance(tensor, torch.Tensor)}
    module.load_state_dict(state, assign=True)
    for name, noted in notes.items():
        tensor = get_tensor(module, name) if noted else None
        if tensor is not None:
            vars(tensor).update(noted)
    for key, first in shared.items():
        set_tensor(module, key, get_tensor(module, first))


def _set_extra_state(module: torch.nn.Module, state: dict[str, Any], saved: Saved) -> None:
    """Set extra state before any tensor: that is code of others, and may fail.

    `load_state_dict` sets it once more, after the tensors, in the order that PyTorch has.
    """
    modules = dict(module.named_modules(remove_duplicate=False))
    for key, value in state.items():
        path, _, last = key.rpartition(".")
        if last == "_extra_state" and path in modules:
            part = modules[path]
            before = copy.deepcopy(part.get_extra_state())
            saved.at_once(part.set_extra_state, copy.deepcopy(value), before)


def ties(module: torch.nn.Module) -> dict[str, str]:
    """The name of each parameter that stands in several places -> its first name."""
    found = firsts(module.named_parameters(remove_duplicate=False))
    return {name: first for name, first in found.items() if name != first}


def firsts(named: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Each name -> the first name of the same thing."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(thing), name) for name, thing in named}


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
