"""Modules as nodes of JSON, and nodes as modules again."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from milepost.errors import DamagedError, UnknownClassError, UnsupportedObjectError
from milepost.frameworks.torch import known
from milepost.frameworks.torch.proof import called
from milepost.record import decode_plain, encode_plain
from milepost.state import PLAIN_TYPES

_SEQUENCES: dict[str, type[Any]] = {"tuple": tuple, "list": list, "size": torch.Size}


class Writer:
    """The walk that describes modules.

    Attributes:
        custom: the classes that are not PyTorch's own, by name.
        forgets: whether an argument of theirs may have had a value that is not known.
    """

    def __init__(self) -> None:
        self.custom: dict[str, type[nn.Module]] = {}
        self.forgets = False
        self._seen: dict[int, str] = {}

    def node(self, module: nn.Module, path: str) -> dict[str, Any]:
        if id(module) in self._seen:
            return {"shared": self._seen[id(module)]}
        self._seen[id(module)] = path
        node = self._class(module, path)
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
                f"{called(path, module)}: its constructor needs {str(error)!r}, and the module "
                f"has no attribute of that name. Add `self.{error} = {error}` to its __init__, "
                "or save a Checkpoint, which needs no structure"
            ) from None
        node["arguments"] = {
            key: self._argument(value, _dotted(path, key), path, module)
            for key, value in arguments.items()
        }
        # What the constructor makes may stand elsewhere too.
        for name, part in module.named_modules():
            self._seen.setdefault(id(part), _dotted(path, name))
        return node

    def _class(self, module: nn.Module, path: str) -> dict[str, Any]:
        cls = type(module)
        if known.is_known(cls):
            return {"class": cls.__name__}
        if self.custom.setdefault(cls.__name__, cls) is not cls:
            raise UnsupportedObjectError(
                f"{called(path, module)} is of another class than an earlier module whose class "
                f"is called {cls.__name__!r} as well: rename one of them, or save a Checkpoint, "
                "which needs no structure"
            )
        self.forgets = self.forgets or known.forgets(module)
        return {"custom": cls.__name__}

    def _argument(self, value: Any, at: str, path: str, module: nn.Module) -> Any:
        # The proof finds out whether the constructor makes the same again of a plain value.
        if isinstance(value, enum.Enum):
            value = value.value
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, PLAIN_TYPES):
            return encode_plain(value)
        for kind, cls in _SEQUENCES.items():
            if type(value) is cls:
                items = enumerate(value)
                return {
                    kind: [self._argument(x, _dotted(at, str(i)), path, module) for i, x in items]
                }
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, nn.Module):
            return {"module": self.node(value, at)}
        for name, function in known.FUNCTIONS.items():
            if value is function:
                return {"function": name}
        raise UnsupportedObjectError(
            f"{called(path, module)}: its constructor's argument "
            f"{at.removeprefix(path).removeprefix('.')!r} is {value!r:.80}, of the class "
            f"{type(value).__name__}: expected a plain value, a list or tuple, a dtype or a "
            "module. Take such arguments, or save a Checkpoint, which needs no structure"
        )


class Reader:
    """The walk that builds modules. Classes are looked up here and nowhere else.

    Attributes:
        used_custom: whether a class was the caller's.
        at: the module whose constructor ran last.
    """

    def __init__(self, custom_objects: Mapping[str, Any], device: str) -> None:
        self.used_custom = False
        self.at = ""
        self._custom_objects = custom_objects
        self._device = device
        self._built: dict[str, nn.Module] = {}

    def module(self, node: Any, path: str) -> nn.Module:
        if not isinstance(node, dict):
            raise DamagedError(f"module {path!r} is described by {node!r:.80}")
        if "shared" in node:
            return self._built[node["shared"]]
        cls = self._class(node, path)
        if cls in known.CONTAINERS:
            module: nn.Module = cls()
            self._built[path] = module
            for key, child in node["children"]:
                made = None if child is None else self.module(child, _dotted(path, key))
                module.add_module(key, made)
            return module
        arguments = {
            key: self._argument(value, _dotted(path, key))
            for key, value in node["arguments"].items()
        }
        self.at = f"{path!r} ({cls.__name__})" if path else f"({cls.__name__})"
        with torch.device(self._device):
            module = cls(**arguments)
        self._built[path] = module
        for name, part in module.named_modules():
            self._built.setdefault(_dotted(path, name), part)
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

    def _argument(self, value: Any, path: str) -> Any:
        if isinstance(value, dict):
            [(kind, inner)] = value.items()
            if kind in _SEQUENCES:
                items = [self._argument(x, _dotted(path, str(i))) for i, x in enumerate(inner)]
                return _SEQUENCES[kind](items)
            if kind == "module":
                return self.module(inner, path)
            if kind == "function":
                return known.FUNCTIONS[inner]
            if kind == "dtype" and isinstance(getattr(torch, str(inner), None), torch.dtype):
                return getattr(torch, inner)
        return decode_plain(value)


def _dotted(path: str, key: str) -> str:
    return f"{path}.{key}" if path and key else path or key
