"""Nodes of JSON as modules again. Classes and functions are looked up here and nowhere else."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from milepost import registry
from milepost.errors import DamagedError, UnknownClassError
from milepost.frameworks.torch import known
from milepost.frameworks.torch.parametrizations import PARAMETRIZATIONS, register
from milepost.frameworks.torch.writer import MAPPINGS, SEQUENCES, dotted
from milepost.record import decode_plain
from milepost.state import LeafSpec

# Constructors may make more than the file has: templates, and what is replaced afterwards.
_SPARE_ELEMENTS, _SPARE_FACTOR = 2**22, 8


class Reader:
    """The walk that builds modules.

    Attributes:
        may_need_values: whether something may compute with values, which the meta device has
            not: a class of the caller's, a parametrisation.
        at: the module whose constructor ran last.
    """

    def __init__(
        self,
        custom_objects: Mapping[str, Any],
        device: str,
        specs: Mapping[str, LeafSpec] | None = None,
    ) -> None:
        self.may_need_values = False
        self.at = ""
        self._custom_objects = custom_objects
        self._device = device
        self._limits = None if specs is None else _Limits(specs)
        self._built: dict[str, nn.Module] = {}

    def module(self, node: Any, path: str) -> nn.Module:
        if not isinstance(node, dict):
            raise DamagedError(f"module {path!r} is described by {node!r:.80}")
        if "shared" in node:
            if node["shared"] not in self._built:
                raise DamagedError(f"module {path!r} is {node['shared']!r:.80}, which is not built")
            return self._built[node["shared"]]
        cls = self._module_class(node, path)
        module = cls() if cls in known.CONTAINERS else self._made(cls, node, path)
        self._built[path] = module
        for name, part in module.named_modules():
            self._built.setdefault(dotted(path, name), part)
        for key, child in node.get("children", ()):
            self._put(module, key, child, path)
        for name, child in node.get("parts", ()):
            owner, _, key = name.rpartition(".")
            self._put(module.get_submodule(owner), key, child, dotted(path, owner))
        for name, *row in node.get("parametrized", ()):
            self._parametrize(module.get_submodule(name), row, dotted(path, name))
        return module

    def _made(self, cls: type[nn.Module], node: dict[str, Any], path: str) -> nn.Module:
        arguments = {
            key: self._argument(value, dotted(path, key))
            for key, value in node["arguments"].items()
        }
        self.at = f"{path!r} ({cls.__name__})" if path else f"({cls.__name__})"
        with torch.device(self._device), warnings.catch_warnings():
            if not known.is_known(cls):
                return registry.call(cls, arguments)  # type: ignore[no-any-return]
            warnings.simplefilter("ignore")  # they were given when the model was made first
            if self._limits:
                self._limits.check(cls, arguments, self.at, self._device)
            return cls(**arguments)

    def _put(self, owner: nn.Module, key: str, child: Any, path: str) -> None:
        at = dotted(path, key)
        if owner._modules.get(key) is not None:
            for name in [name for name in self._built if name.startswith(f"{at}.")]:
                del self._built[name]
        made = None if child is None else self.module(child, at)
        if made is not None and any(part is owner for part in made.modules()):
            raise DamagedError(f"module {at!r} contains itself")
        owner.add_module(key, made)

    def _parametrize(self, module: nn.Module, row: Any, path: str) -> None:
        self.may_need_values = True
        self.at = f"{path!r} with its parametrisations"
        at = dotted(path, f"{PARAMETRIZATIONS}.{row[0]}")
        with torch.device(self._device):
            register(
                module, row, lambda node, i: self.module(node, dotted(at, str(i))), decode_plain
            )

    def _module_class(self, node: dict[str, Any], path: str) -> type[nn.Module]:
        cls = self._class(node, path)
        if not issubclass(cls, nn.Module):
            raise UnknownClassError(
                f"{_called(path)} is of the class {node.get('custom')!r}, and what has that "
                f"name here is {cls!r:.80}, which is no torch.nn.Module"
            )
        return cls

    def _class(self, node: dict[str, Any], path: str) -> type[Any]:
        if "class" in node:
            if node["class"] not in known.CLASSES:
                raise UnknownClassError(
                    f"{_called(path)} is of torch.nn.{node['class']}, which milepost does not know"
                )
            return known.CLASSES[node["class"]]
        found = self._custom(node, path, "class")
        if not isinstance(found, type):
            raise UnknownClassError(
                f"{_called(path)} is of the class {node.get('custom')!r}, and what has that "
                f"name here is {found!r:.80}, which is no class"
            )
        return found

    def _custom(self, node: dict[str, Any], path: str, kind: str) -> Any:
        self.may_need_values = True
        name = node.get("custom")
        if isinstance(name, str) and name in self._custom_objects:
            return self._custom_objects[name]
        custom: Any = self._custom_objects
        if getattr(custom, "trust", False) and "qualname" in node:
            try:
                return custom.imported(node["module"], node["qualname"])
            except (ImportError, AttributeError, TypeError, ValueError) as error:
                raise UnknownClassError(
                    f"{_called(path)} needs {name!r}, which cannot be imported: {error}"
                ) from error
        is_a = "is of the class" if kind == "class" else "needs the function"
        raise UnknownClassError(
            f"{_called(path)} {is_a} {name!r}, which is not PyTorch's own: register it with "
            f"@milepost.register, or pass custom_objects={{{name!r}: {name}}}"
        )

    def _argument(self, value: Any, path: str) -> Any:
        if not isinstance(value, dict) or len(value) != 1:
            return decode_plain(value)
        [(kind, inner)] = value.items()
        if kind in SEQUENCES:
            items = [self._argument(x, dotted(path, str(i))) for i, x in enumerate(inner)]
            return SEQUENCES[kind](items)
        if kind in MAPPINGS:
            pairs = [(decode_plain(k), x) for k, x in inner]
            return MAPPINGS[kind]((k, self._argument(x, dotted(path, str(k)))) for k, x in pairs)
        if kind in ("range", "slice"):
            return (range if kind == "range" else slice)(*inner)
        if kind == "device":
            return torch.device(inner)
        if kind == "enum":
            return self._member(inner, path)
        if kind == "module":
            return self.module(inner, path)
        if kind == "tensor":
            return self._tensor(inner)
        if kind == "partial":
            function, args, keywords = (self._argument(x, path) for x in inner)
            return functools.partial(function, *args, **keywords)
        if kind == "type":
            return self._class(inner, path)
        if kind == "callable":
            return self._custom(inner, path, "function")
        if kind == "object":
            return self._object(inner, path)
        if kind == "function":
            if inner not in known.FUNCTIONS:
                raise UnknownClassError(f"{path!r} is the function {inner!r:.80}, no known one")
            return known.FUNCTIONS[inner]
        if kind == "dtype" and inner in known.DTYPES:
            return known.DTYPES[inner]
        return decode_plain(value)

    def _member(self, node: Any, path: str) -> enum.Enum:
        cls = self._class(node, path)
        if not issubclass(cls, enum.Enum) or node["member"] not in cls.__members__:
            raise UnknownClassError(f"{path!r} is {node['member']!r:.80} of {cls!r:.80}, no such")
        return cls.__members__[node["member"]]

    def _object(self, node: Any, path: str) -> Any:
        """An argument that is no module, such as a configuration.

        Only of a class that is data, or that is registered for this: not of any that is passed.
        """
        cls = self._class(node, path)
        if not dataclasses.is_dataclass(cls) and not registry.name_of(cls):
            raise UnknownClassError(
                f"{path!r} is of the class {cls.__name__!r}, which is no dataclass: register it "
                "with @milepost.register"
            )
        given = {k: self._argument(x, dotted(path, k)) for k, x in node["arguments"].items()}
        return registry.call(cls, given)

    def _tensor(self, node: Any) -> torch.Tensor:
        shape, dtype, is_parameter = node
        with torch.device(self._device):
            tensor = torch.zeros(shape, dtype=known.DTYPES[dtype])
        return nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor


class _Limits:
    """How much constructors of PyTorch's own may make, so that a file cannot ask for any amount."""

    def __init__(self, specs: Mapping[str, LeafSpec]) -> None:
        self._leaves = len(specs)
        elements = sum(math.prod(spec.shape or ()) for spec in specs.values())
        self._elements = elements * _SPARE_FACTOR + _SPARE_ELEMENTS

    def check(self, cls: type[nn.Module], arguments: dict[str, Any], at: str, device: str) -> None:
        # Each layer has leaves of its own.
        layers = arguments.get("num_layers", 0)
        if not 0 <= layers <= self._leaves:
            raise DamagedError(f"module {at} has {layers!r:.80} layers: more than there are leaves")
        if device == "meta":
            return
        with torch.device("meta"):
            made = cls(**arguments)
        own = (t for t in (*made.parameters(), *made.buffers()) if t.is_meta)
        self._elements -= sum(tensor.numel() for tensor in own)
        if self._elements < 0:
            raise DamagedError(f"module {at} is larger than all leaves of the file")


def _called(path: str) -> str:
    return f"module {path!r}" if path else "the model"
