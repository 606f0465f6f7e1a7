"""The structure of a PyTorch module: out as JSON, and in again from known classes only.

A module does not describe itself, so it is read: its class, and for each parameter of its
constructor the attribute of that name. Whether that tells enough is proved when it is saved:
the module is built again from the description and compared.

    {"class": "Linear", "arguments": {"in_features": 2, ...}}     a class of torch.nn
    {"custom": "Net", "arguments": {...}}                         one that the caller passes
    {"class": "Sequential", "children": [["0", node], ...]}       a container
    {"shared": "encoder"}                                         a module that stands there too
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from milepost.errors import (
    DamagedError,
    MilepostError,
    UnknownClassError,
    UnsupportedObjectError,
    UsageError,
)
from milepost.frameworks.torch import known
from milepost.frameworks.torch.modules import get_tensor, set_tensor, ties, unwrapped
from milepost.frameworks.torch.proof import difference
from milepost.record import decode_plain, encode_plain
from milepost.state import PLAIN_TYPES, LeafSpec


def describe(module: nn.Module) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The structure of a module as JSON; modules have no assets.

    Raises:
        UnsupportedObjectError: it cannot be built again from that; the message names the
            module, the reason and the ways out.
    """
    module = unwrapped(module)
    writer = _Writer()
    structure = {
        "module": writer.node(module, ""),
        "evaluation": [name for name, part in module.named_modules() if not part.training],
        "frozen": [name for name, p in module.named_parameters() if not p.requires_grad],
        "ties": ties(module),
        "needs": sorted(writer.custom),
    }
    rebuilt = build(structure, {}, writer.custom)
    problem = difference(module, rebuilt)
    if problem:
        raise UnsupportedObjectError(
            f"{problem}, so the model could not be loaded again. Make each argument of the "
            "constructor an attribute of the same name, or save a Checkpoint, which needs "
            "no structure"
        )
    return structure, {}


def build(
    structure: Mapping[str, Any],
    files: Mapping[str, bytes],
    custom_objects: Mapping[str, Any],
    specs: Mapping[str, LeafSpec] | None = None,
) -> nn.Module:
    """The module that `describe` described, without values where that is possible.

    `specs` are those of the leaves that will be put into it: tensors get their dtypes.

    Raises:
        UnknownClassError: it needs a class that was not passed.
        UsageError: a constructor failed; the message has its reason.
    """
    reader = _Reader(custom_objects)
    try:
        module = reader.module(structure["module"], "", "meta")
        if reader.used_custom and _needs_values(module):
            # A class of the user's may compute what no file has: let it, without drawing
            # from the program's random numbers.
            with torch.random.fork_rng():
                module = _Reader(custom_objects).module(structure["module"], "", "cpu")
    except MilepostError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:
        raise UsageError(
            f"PyTorch {torch.__version__} cannot rebuild the model: {error}"
        ) from error
    for name, first in structure["ties"].items():
        set_tensor(module, name, get_tensor(module, first))
    for name, spec in (specs or {}).items():
        _adopt_dtype(module, name, spec)
    evaluation = set(structure["evaluation"])
    for name, part in module.named_modules():
        part.training = name not in evaluation
    frozen = set(structure["frozen"])
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen and parameter.is_floating_point())
    return module


class _Writer:
    """The walk that describes modules."""

    def __init__(self) -> None:
        self.custom: dict[str, type[nn.Module]] = {}
        self._seen: dict[int, str] = {}

    def node(self, module: nn.Module, path: str) -> dict[str, Any]:
        if id(module) in self._seen:
            return {"shared": self._seen[id(module)]}
        self._seen[id(module)] = path
        _refuse_hooks(module, path)
        name = type(module).__name__
        if known.CLASSES.get(name) is type(module):
            node: dict[str, Any] = {"class": name}
        else:
            node = {"custom": name}
            self.custom[name] = type(module)
        if type(module) in known.CONTAINERS:
            children = module._modules.items()
            node["children"] = [
                [k, None if c is None else self.node(c, _dotted(path, k))] for k, c in children
            ]
            return node
        try:
            arguments = known.arguments(module)
        except known.NoArgument as error:
            raise UnsupportedObjectError(
                f"{_called(path, module)}: its constructor needs {str(error)!r}, and the module "
                f"has no attribute of that name. Add `self.{error} = {error}` to its __init__, "
                "or save a Checkpoint, which needs no structure"
            ) from None
        node["arguments"] = {
            key: self._argument(value, path, module, key) for key, value in arguments.items()
        }
        return node

    def _argument(self, value: Any, path: str, module: nn.Module, key: str) -> Any:
        if isinstance(value, PLAIN_TYPES):
            return encode_plain(value)
        if isinstance(value, list | tuple):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [self._argument(item, path, module, key) for item in value]}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, nn.Module):
            return {"module": self.node(value, _dotted(path, key))}
        for name, function in known.FUNCTIONS.items():
            if value is function:
                return {"function": name}
        raise UnsupportedObjectError(
            f"{_called(path, module)}: the argument {key!r} of its constructor is {value!r:.80}, "
            "neither a plain value nor a module; save a Checkpoint, which needs no structure"
        )


class _Reader:
    """The walk that builds modules. Classes are looked up here and nowhere else."""

    def __init__(self, custom_objects: Mapping[str, Any]) -> None:
        self._custom_objects = custom_objects
        self._built: dict[str, nn.Module] = {}
        self.used_custom = False

    def module(self, node: Any, path: str, device: str) -> nn.Module:
        if not isinstance(node, dict):
            raise DamagedError(f"module {path!r} is described by {node!r:.80}")
        if "shared" in node:
            return self._built[node["shared"]]
        cls = self._class(node, path)
        if cls in known.CONTAINERS:
            module: nn.Module = cls()
            self._built[path] = module
            for key, child in node["children"]:
                made = None if child is None else self.module(child, _dotted(path, key), device)
                module.add_module(key, made)
            return module
        arguments = {
            key: self._argument(value, _dotted(path, key), device)
            for key, value in node["arguments"].items()
        }
        with torch.device(device):
            module = cls(**arguments)
        self._built[path] = module
        return module

    def _class(self, node: dict[str, Any], path: str) -> type[nn.Module]:
        if "class" in node:
            if node["class"] not in known.CLASSES:
                raise UnknownClassError(
                    f"module {path!r} is of torch.nn.{node['class']}, which milepost does not know"
                )
            return known.CLASSES[node["class"]]
        self.used_custom = True
        cls = self._custom_objects.get(node.get("custom", ""))
        if not isinstance(cls, type) or not issubclass(cls, nn.Module):
            name = node.get("custom")
            raise UnknownClassError(
                f"module {path!r} is of the class {name!r}, which is not PyTorch's own: "
                f"pass custom_objects={{{name!r}: {name}}}"
            )
        return cls

    def _argument(self, value: Any, path: str, device: str) -> Any:
        if isinstance(value, dict):
            [(kind, inner)] = value.items()
            if kind in ("tuple", "list"):
                items = [self._argument(item, path, device) for item in inner]
                return tuple(items) if kind == "tuple" else items
            if kind == "module":
                return self.module(inner, path, device)
            if kind == "function":
                return known.FUNCTIONS[inner]
            if kind == "dtype" and isinstance(getattr(torch, str(inner), None), torch.dtype):
                return getattr(torch, inner)
        return decode_plain(value)


def _needs_values(module: nn.Module) -> bool:
    """Whether a module made by the user's code holds tensors that its state does not."""
    saved = module.state_dict().keys()
    buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
    loose = any(
        isinstance(v, torch.Tensor) for part in module.modules() for v in vars(part).values()
    )
    return bool(buffers - saved) or loose


def _adopt_dtype(module: nn.Module, name: str, spec: LeafSpec) -> None:
    tensor = get_tensor(module, name)
    dtype = getattr(torch, spec.dtype, None)
    if tensor is None or not isinstance(dtype, torch.dtype) or tensor.dtype == dtype:
        return
    other: torch.Tensor = tensor.detach().to(dtype)
    if isinstance(tensor, nn.Parameter):
        other = nn.Parameter(other, requires_grad=tensor.requires_grad and dtype.is_floating_point)
    for same, part in list(module.named_parameters(remove_duplicate=False)):
        if part is tensor:
            set_tensor(module, same, other)
    set_tensor(module, name, other)


def _refuse_hooks(module: nn.Module, path: str) -> None:
    for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        if getattr(module, kind, None):
            raise UnsupportedObjectError(
                f"{_called(path, module)} has hooks, which are code and cannot be saved: remove "
                "them first, or save a Checkpoint, which needs no structure"
            )


def _called(path: str, module: nn.Module) -> str:
    return (
        f"the module {path!r} ({type(module).__name__})"
        if path
        else f"the model ({type(module).__name__})"
    )


def _dotted(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
