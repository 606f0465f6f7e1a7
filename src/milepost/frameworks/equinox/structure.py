"""The structure of an Equinox module: its class and its fields, static ones too.

A module is built as JAX itself builds it from its parts: no constructor runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox
from equinox.nn import State
from equinox.nn._shared import SharedNode

from milepost.errors import DamagedError, UnsupportedObjectError
from milepost.frameworks.base import ModelParts
from milepost.frameworks.equinox.known import WORDS
from milepost.frameworks.pytrees import proof, reader, writer
from milepost.state import LeafSpec, join

_STATE: Any = State


def describe(module: equinox.Module) -> ModelParts:
    """The structure of a module.

    Raises:
        UnsupportedObjectError: it cannot be built again from that; the message names the part.
    """
    return proof.described(module, Writer, _describe, _build)


def build(
    structure: Mapping[str, Any],
    assets: Mapping[str, bytes],
    custom: Mapping[str, Any],
    specs: Mapping[str, LeafSpec],
) -> Any:
    """The module that `describe` described, with abstract arrays.

    Raises:
        UnknownClassError: it needs a class that was neither passed nor registered.
        DamagedError: the structure is none.
    """
    return proof.built(lambda: _build(structure, custom, specs), "Equinox")


def _describe(module: Any, out: writer.Writer) -> dict[str, Any]:
    return {"module": out.node(module, "")}


def _build(
    structure: Mapping[str, Any], custom: Mapping[str, Any], specs: Mapping[str, LeafSpec]
) -> Any:
    module = Reader(WORDS, custom, specs).value(structure["module"], "")
    if not isinstance(module, equinox.Module):
        raise DamagedError("the structure of the model is not that of an Equinox module")
    return module


class Writer(writer.Writer):
    def __init__(self) -> None:
        super().__init__(WORDS)

    def special(self, value: Any, path: str) -> dict[str, Any] | None:
        if isinstance(value, _STATE):
            keys, parts = value.tree_flatten()[::-1]
            if not all(isinstance(key, str) for key in keys):
                raise UnsupportedObjectError(
                    f"{path!r} in the model is a state that was not made by "
                    "equinox.nn.make_with_state, which gives its parts their names"
                )
            items = [self.node(part, join(path, str(i))) for i, part in enumerate(parts)]
            return {"state": list(keys), "parts": items}
        if isinstance(value, SharedNode):
            return {"elsewhere": True}
        if not isinstance(value, equinox.Module):
            return None
        names = [f.name for f in dataclasses.fields(value) if hasattr(value, f.name)]
        return self.fields(value, type(value), {name: getattr(value, name) for name in names}, path)


class Reader(reader.Reader):
    def special(self, node: dict[str, Any], path: str) -> Any:
        if "state" in node:
            parts = [self.value(part, join(path, str(i))) for i, part in enumerate(node["parts"])]
            return _STATE.tree_unflatten(tuple(map(str, node["state"])), parts)
        if "elsewhere" in node:
            return SharedNode()
        if "module" not in node:
            return super().special(node, path)
        cls = self.cls(node["module"], path)
        known = {f.name for f in dataclasses.fields(cls)}
        module = object.__new__(cls)
        for name, value in self.fields(node, cls, path).items():
            if name not in known:
                raise DamagedError(
                    f"{path!r} in the model has the field {name!r:.80}, which its "
                    f"class {cls.__name__} has not"
                )
            object.__setattr__(module, name, value)
        return module
