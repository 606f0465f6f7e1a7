"""Modules as nodes of JSON."""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections import OrderedDict
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from milepost import registry
from milepost.errors import UnsupportedObjectError
from milepost.frameworks.torch import known
from milepost.frameworks.torch.arguments import NoArgument, Template, arguments, is_state
from milepost.frameworks.torch.changes import Places
from milepost.frameworks.torch.parametrizations import PARAMETRIZATIONS, described, parametrized
from milepost.frameworks.torch.proof import called
from milepost.record import encode_plain
from milepost.state import PLAIN_TYPES

SEQUENCES: dict[str, type[Any]] = {
    **{cls.__name__: cls for cls in (tuple, list, set, frozenset)},
    "size": torch.Size,
}
MAPPINGS: dict[str, type[Any]] = {"dict": dict, "ordered_dict": OrderedDict}


class Writer:
    """The walk that describes modules.

    Arguments:
        places: where something stands that no constructor has put there.

    Attributes:
        custom: the classes and functions that are not PyTorch's own, by name.
        forgets: whether something in a module of these classes may have come from elsewhere
            than from its constructor with arguments that are known.
    """

    def __init__(self, places: Places = frozenset()) -> None:
        self.custom: dict[str, Any] = {}
        self.forgets = False
        self._places = places
        self._seen: dict[int, str] = {}

    def node(self, module: nn.Module, path: str) -> dict[str, Any]:
        if id(module) in self._seen:
            return {"shared": self._seen[id(module)]}
        self._seen[id(module)] = path
        cls = known.class_of(module)
        if cls in known.CONTAINERS:
            node: dict[str, Any] = {"class": cls.__name__, "children": []}
            for key, child in module._modules.items():
                if key != PARAMETRIZATIONS or not parametrized(module):
                    made = None if child is None else self.node(child, dotted(path, key))
                    node["children"].append([key, made])
        else:
            node = self._class(cls, called(path, module))
            node["arguments"] = self._arguments(module, path)
        self._changes(module, path, "", node)
        return node

    def _class(self, cls: type, where: str) -> dict[str, Any]:
        return {"class": cls.__name__} if known.is_known(cls) else self._custom(cls, where)

    def _custom(self, thing: Any, where: str) -> dict[str, Any]:
        name = registry.name_of(thing) or thing.__name__
        if self.custom.setdefault(name, thing) is not thing:
            raise UnsupportedObjectError(
                f"{where} needs another class or function than an earlier module, which is "
                f"called {name!r} as well: rename one of them, or save a Checkpoint, "
                "which needs no structure"
            )
        return {"custom": name, "module": thing.__module__, "qualname": thing.__qualname__}

    def _changes(self, module: nn.Module, path: str, name: str, node: dict[str, Any]) -> None:
        """What was put into a module, or into a part of it, after its constructor had run."""
        if (id(module), PARAMETRIZATIONS) in self._places:
            rows = [[name, *row] for row in self._parametrized(module, dotted(path, name))]
            node.setdefault("parametrized", []).extend(rows)
        for key, child in module._modules.items():
            part = dotted(name, key)
            if key == PARAMETRIZATIONS and parametrized(module):
                continue
            if (id(module), key) in self._places:
                self.forgets = True
                made = None if child is None else self.node(child, dotted(path, part))
                node.setdefault("parts", []).append([part, made])
            elif child is not None and id(child) not in self._seen:
                # What the constructor makes may stand elsewhere too.
                self._seen[id(child)] = dotted(path, part)
                self._changes(child, path, part, node)

    def _parametrized(self, module: nn.Module, path: str) -> list[Any]:
        rows = []
        for key, parts in parametrized(module).items():
            at = dotted(path, f"{PARAMETRIZATIONS}.{key}")
            steps = [
                described(part) or {"module": self.node(part, dotted(at, str(index)))}
                for index, part in enumerate(parts)
            ]
            rows.append([key, parts.unsafe, steps])
        return rows

    def _arguments(self, module: nn.Module, path: str) -> dict[str, Any]:
        try:
            found = arguments(module)
        except NoArgument as error:
            raise UnsupportedObjectError(
                f"{called(path, module)}: its constructor needs {str(error)!r}, and there is "
                f"no attribute of that name. Add `self.{error} = {error}` to its __init__, "
                "register its class with @milepost.register before it is used, or save a "
                "Checkpoint, which needs no structure"
            ) from None
        is_known = known.is_known(known.class_of(module))
        self.forgets = self.forgets or not (is_known or found.complete)
        written = _Arguments(self, module, path)
        return {key: written.of(value, dotted(path, key)) for key, value in found.values.items()}


class _Arguments:
    """The arguments of one constructor as JSON.

    The proof finds out whether the constructor makes the same again of a plain value.
    """

    def __init__(self, writer: Writer, module: nn.Module, path: str) -> None:
        self._writer = writer
        self._module = module
        self._path = path

    def of(self, value: Any, at: str) -> Any:
        if isinstance(value, enum.Enum):
            return {"enum": {**self._class(type(value)), "member": value.name}}
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, PLAIN_TYPES):
            return encode_plain(value)
        for kind, cls in SEQUENCES.items():
            if type(value) is cls:
                return {kind: [self.of(x, dotted(at, str(i))) for i, x in enumerate(value)]}
        if type(value) in (range, slice):
            return {type(value).__name__: [value.start, value.stop, value.step]}
        if type(value) in MAPPINGS.values() and all(isinstance(key, PLAIN_TYPES) for key in value):
            items = [(encode_plain(k), self.of(x, dotted(at, str(k)))) for k, x in value.items()]
            name = "dict" if type(value) is dict else "ordered_dict"
            return {name: [list(item) for item in items]}
        return self._thing(value, at)

    def _thing(self, value: Any, at: str) -> Any:
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"device": str(value)}
        if isinstance(value, Template):
            return {"module": self._template(value.module, at)}
        if isinstance(value, nn.Module):
            return {"module": self._writer.node(value, at)}
        if isinstance(value, torch.Tensor):
            return self._tensor(value, at)
        if isinstance(value, functools.partial):
            inner = [self.of(x, at) for x in (value.func, list(value.args), value.keywords)]
            return {"partial": inner}
        for name, function in known.FUNCTIONS.items():
            if value is function:
                return {"function": name}
        if (noted := _noted(value)) is not None:
            cls = self._class(type(value))
            given = {key: self.of(x, dotted(at, key)) for key, x in noted.items()}
            return {"object": {**cls, "arguments": given}}
        if isinstance(value, type) and value.__module__ != "builtins":
            return {"type": self._class(value)}
        if _is_function(value):
            return {"callable": self._writer._custom(value, called(self._path, self._module))}
        raise self._unsupported(value, at)

    def _class(self, cls: type) -> dict[str, Any]:
        return self._writer._class(cls, called(self._path, self._module))

    def _template(self, module: nn.Module, at: str) -> dict[str, Any]:
        writer = Writer()
        writer.custom = self._writer.custom
        node = writer.node(module, at)
        self._writer.forgets |= writer.forgets
        return node

    def _tensor(self, value: torch.Tensor, at: str) -> Any:
        """A tensor's size and dtype: the state has its values."""
        cls = known.class_of(self._module)
        if not known.is_known(cls) or not is_state(self._module, value):
            raise self._unsupported(value, at)
        dtype = str(value.dtype).removeprefix("torch.")
        return {"tensor": [list(value.shape), dtype, isinstance(value, nn.Parameter)]}

    def _unsupported(self, value: Any, at: str) -> UnsupportedObjectError:
        name = at.removeprefix(self._path).removeprefix(".")
        return UnsupportedObjectError(
            f"{called(self._path, self._module)}: its constructor's argument {name!r} is "
            f"{value!r:.80}, of the class {type(value).__name__}: expected a plain value, a "
            "list, tuple, set or dict, an enum, a dtype, a module, a dataclass, or a class or "
            "function with a name. Take such arguments (let the constructor make a tensor, as a "
            "buffer or parameter), or save a Checkpoint, which needs no structure"
        )


def _noted(value: Any) -> dict[str, Any] | None:
    """What an object, such as a configuration, was made with: of a dataclass, what it has now."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: getattr(value, field.name) for field in fields if field.init}
    return registry.arguments_of(value)


def _is_function(value: Any) -> bool:
    """Whether it is a function with a name, and not one of an object's methods."""
    if isinstance(value, BuiltinFunctionType):
        return value.__self__ is None or isinstance(value.__self__, ModuleType | type)
    return isinstance(value, FunctionType) and value.__name__.isidentifier()


def dotted(path: str, key: str) -> str:
    return f"{path}.{key}" if path and key else path or key
