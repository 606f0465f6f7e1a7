"""Whether a module that was built again is the one it was described from."""

from __future__ import annotations

from types import FunctionType
from typing import Any

import torch
from torch import nn

from milepost.state import PLAIN_TYPES


def difference(original: nn.Module, rebuilt: nn.Module) -> str | None:
    """The first thing in which two modules differ, values apart; None if nothing."""
    parts = dict(original.named_modules(remove_duplicate=False))
    others = dict(rebuilt.named_modules(remove_duplicate=False))
    for name in [*parts, *others]:
        if name not in parts or name not in others:
            where = "" if name in others else "not "
            return (
                f"the module {name!r} is {where}in the model when it is built again from its class"
            )
        problem = _module_difference(parts[name], others[name])
        if problem:
            return f"the module {name!r} ({type(parts[name]).__name__}) comes out with {problem}"
    return _tensor_difference(original, rebuilt)


def _module_difference(a: nn.Module, b: nn.Module) -> str | None:
    if type(a) is not type(b):
        return f"the class {type(b).__name__} instead of {type(a).__name__}"
    if a.extra_repr() != b.extra_repr():
        return f"{b.extra_repr()!r} instead of {a.extra_repr()!r}"
    mine, theirs = _comparable(a), _comparable(b)
    for key in [*mine, *theirs]:
        if key not in mine or key not in theirs or mine[key] != theirs[key]:
            return f"{key}={theirs.get(key)!r} instead of {mine.get(key)!r}"
    return None


def _comparable(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module that its constructor must have set."""
    return {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_") and key != "training" and _is_comparable(value)
    }


def _is_comparable(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_comparable(item) for item in value)
    return isinstance(value, (*PLAIN_TYPES, torch.dtype, FunctionType))


def _tensor_difference(a: nn.Module, b: nn.Module) -> str | None:
    mine, theirs = a.state_dict(keep_vars=True), b.state_dict(keep_vars=True)
    for name in [*mine, *theirs]:
        if name not in mine or name not in theirs:
            where = "lacks" if name in mine else "gains"
            return f"the model {where} {name!r} when it is built again from its class"
        x, y = mine[name], theirs[name]
        if not isinstance(x, torch.Tensor):
            return f"{name!r} is extra state that is no tensor"
        if x.shape != y.shape or type(x) is not type(y):
            return f"{name!r} comes out as {list(y.shape)} instead of {list(x.shape)}"
    loose = dict(b.named_buffers(remove_duplicate=False))
    for name, buffer in a.named_buffers(remove_duplicate=False):
        if name not in mine and not _equal(buffer, loose.get(name)):
            return f"the buffer {name!r} is not saved (persistent=False) and comes out different"
    return None


def _equal(a: torch.Tensor, b: torch.Tensor | None) -> bool:
    return b is not None and not b.is_meta and torch.equal(a.cpu(), b.cpu())
