"""The structure of a bound Linen module: the fields of the modules in it, and its variables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import linen
from flax.core import DenyList, FrozenDict
from flax.core.meta import AxisMetadata

from milepost.errors import DamagedError
from milepost.frameworks.base import ModelParts
from milepost.frameworks.flax import bound
from milepost.frameworks.flax.known import LINEN
from milepost.frameworks.pytrees import program, proof, reader, writer
from milepost.frameworks.pytrees.predict import call
from milepost.program import Program
from milepost.state import LeafSpec

_BOXES: Any = AxisMetadata
_FROZEN: Any = FrozenDict
_OF_THE_TREE = ("parent", "name")


def describe(module: linen.Module) -> ModelParts:
    return proof.described(module, Writer, _describe, _build)


def build(
    structure: Mapping[str, Any], custom: Mapping[str, Any], specs: Mapping[str, LeafSpec]
) -> Any:
    return proof.built(lambda: _build(structure, custom, specs), "Flax")


def predict(module: linen.Module, inputs: Any) -> Any:
    """The outputs of a module, which stays as it is, for the arguments that a caller would give."""
    unbound, variables = bound.parts(module)
    return call(unbound.bind(variables, mutable=bound.mutable(module)), inputs)


def export(module: linen.Module, inputs: Any, signature: Mapping[str, Any]) -> Program:
    unbound, variables = bound.parts(module)
    return program.export(
        program.named_arrays(variables),
        lambda arrays: unbound.bind(program.with_arrays(variables, arrays)),
        inputs,
        signature,
    )


def _describe(module: Any, out: writer.Writer) -> dict[str, Any]:
    unbound, variables = bound.parts(module)
    described = {
        "linen": out.node(unbound, ""),
        "variables": {"dict": out.items(variables, "")},
    }
    if bound.mutable(module) is not False:
        described["mutable"] = out.node(bound.mutable(module), "mutable")
    return described


def _build(
    structure: Mapping[str, Any], custom: Mapping[str, Any], specs: Mapping[str, LeafSpec]
) -> Any:
    given = Reader(LINEN, custom, specs)
    module = given.value(structure["linen"], "")
    if not isinstance(module, linen.Module):
        raise DamagedError("the structure of the model is not that of a Linen module")
    variables = given.value(structure["variables"], "")
    mutable = given.value(structure.get("mutable", False), "mutable")
    return module.bind(variables, mutable=mutable)


class Writer(writer.Writer):
    def __init__(self) -> None:
        super().__init__(LINEN)
        self._seen: dict[int, tuple[str, Any]] = {}

    def special(self, value: Any, path: str) -> dict[str, Any] | None:
        if isinstance(value, FrozenDict):
            return {"frozen": self.items(value, path)}
        if isinstance(value, DenyList):
            return {"all but": self.node(value.deny, path)}
        if isinstance(value, _BOXES) and dataclasses.is_dataclass(value):
            names = [f.name for f in dataclasses.fields(value)]
            return self.fields(value, type(value), {n: getattr(value, n) for n in names}, path)
        if not isinstance(value, linen.Module):
            return None
        if id(value) in self._seen:
            return {"shared": self._seen[id(value)][0]}
        self._seen[id(value)] = (path, value)
        names = [f.name for f in dataclasses.fields(value) if f.init and f.name not in _OF_THE_TREE]
        node = self.fields(value, type(value), {n: getattr(value, n) for n in names}, path)
        return {**node, "name": value.name} if value.name is not None else node


class Reader(reader.Reader):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._built: dict[str, Any] = {}

    def special(self, node: dict[str, Any], path: str) -> Any:
        if "frozen" in node:
            return _FROZEN(self.items(node["frozen"], path))
        if "all but" in node:
            return DenyList(self.value(node["all but"], path))
        if "shared" in node:
            return self._built[node["shared"]]
        if "module" not in node:
            return super().special(node, path)
        cls = self.cls(node["module"], path)
        fields = self.fields(node, cls, path)
        if not fields.keys() <= {f.name for f in dataclasses.fields(cls)} - set(_OF_THE_TREE):
            raise DamagedError(
                f"{path!r} in the model has a field that its class {cls.__name__} has not"
            )
        if issubclass(cls, linen.Module):
            fields |= {"parent": None, "name": node.get("name")}
        self._built[path] = module = cls(**fields)
        return module
