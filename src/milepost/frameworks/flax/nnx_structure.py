"""The structure of an NNX module: the graph of its attributes.

    {"module": class, "fields": [[name, node], ...], "data": {name: true, ...}}
    {"variable": class, "metadata": [[name, node], ...], "value": node}
    {"shared": "encoder/kernel"}        a module or a variable that stands there too

A module is built as NNX itself builds it from its graph: no constructor runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from flax.core import FrozenDict
from flax.nnx.pytreelib import PytreeState
from flax.nnx.variablelib import is_array_ref
from flax.typing import HashableMapping

from milepost.errors import DamagedError, UnsupportedObjectError
from milepost.frameworks import pytrees
from milepost.frameworks.base import ModelParts
from milepost.frameworks.flax.graph import flat_state, raw_value
from milepost.frameworks.flax.known import NNX
from milepost.frameworks.pytrees import program, proof, reader, writer
from milepost.frameworks.pytrees.keys import generator_of
from milepost.frameworks.pytrees.predict import call
from milepost.program import Program
from milepost.state import LeafSpec, join

_FROZEN: Any = FrozenDict
_STATE, _DATA = "_pytree__state", "_pytree__nodes"


def describe(module: nnx.Module) -> ModelParts:
    if not isinstance(module, nnx.Module):
        raise UnsupportedObjectError(
            f"expected a model, found {type(module).__module__}.{type(module).__qualname__}: save "
            "other objects with Checkpoint(...).save(path)"
        )
    return proof.described(module, Writer, _describe, _build)


def build(
    structure: Mapping[str, Any], custom: Mapping[str, Any], specs: Mapping[str, LeafSpec]
) -> Any:
    return proof.built(lambda: _build(structure, custom, specs), "Flax")


def predict(module: nnx.Module, inputs: Any) -> Any:
    """The outputs of a module in evaluation mode; whatever that changes is a copy's."""
    return call(_evaluating(nnx.clone(module)), inputs)


def export(module: nnx.Module, inputs: Any, signature: Mapping[str, Any]) -> Program:
    definition, flat = nnx.graphdef(module), flat_state(module)
    values = {
        key: raw_value(part) if isinstance(part, nnx.Variable) else part for key, _, part in flat
    }
    return program.export(
        program.named_arrays(values),
        lambda arrays: _evaluating(_merged(definition, flat, program.with_arrays(values, arrays))),
        inputs,
        signature,
    )


def _merged(definition: Any, flat: list[Any], values: Mapping[str, Any]) -> Any:
    parts = [(path, _with_value(part, values[key])) for key, path, part in flat]
    return nnx.merge(definition, nnx.from_flat_state(parts))


def _with_value(part: Any, value: Any) -> Any:
    return part.replace(value) if isinstance(part, nnx.Variable) else value


def _evaluating(module: Any) -> Any:
    # Not `module.eval`, which an attribute might hide.
    nnx.Module.set_attributes(
        module, deterministic=True, use_running_average=True, raise_if_not_found=False
    )
    return module


def _describe(module: Any, out: writer.Writer) -> dict[str, Any]:
    return {"nnx": out.node(module, "")}


def _build(
    structure: Mapping[str, Any], custom: Mapping[str, Any], specs: Mapping[str, LeafSpec]
) -> Any:
    module = Reader(NNX, custom, specs).value(structure["nnx"], "")
    if not isinstance(module, nnx.Module):
        raise DamagedError("the structure of the model is not that of an NNX module")
    return module


class Writer(writer.Writer):
    def __init__(self) -> None:
        super().__init__(NNX)
        self._seen: dict[int, tuple[str, Any]] = {}

    def special(self, value: Any, path: str) -> dict[str, Any] | None:
        if isinstance(value, FrozenDict):
            return {"frozen": self.items(value, path)}
        if isinstance(value, nnx.StateAxes):
            pairs = tuple(zip(value.filters, value.axes, strict=True))
            return {"axes": self.node(pairs, path)}
        if not isinstance(value, nnx.Pytree | nnx.Variable):
            return None
        if id(value) in self._seen:
            return {"shared": self._seen[id(value)][0]}
        self._seen[id(value)] = (path, value)
        if isinstance(value, nnx.Variable):
            return self._variable(value, path)
        attributes = {k: v for k, v in vars(value).items() if k not in (_STATE, _DATA)}
        # In NNX's own order: of what is shared, the first path is the leaf's name.
        node = self.fields(
            value, type(value), dict(sorted(attributes.items(), key=_order(value))), path
        )
        data = getattr(value, _DATA, {})
        return {**node, "data": {k: bool(v) for k, v in data.items() if k not in (_STATE, _DATA)}}

    def _variable(self, variable: Any, path: str) -> dict[str, Any]:
        metadata = variable.get_metadata()
        if metadata.get("hijax"):
            raise UnsupportedObjectError(
                f"{path!r} in the model is a hijax variable, which cannot be saved in a model file"
            )
        node = {
            "variable": self.reference(variable.var_type, path),
            "metadata": [
                [key, self.node(value, join(path, key))] for key, value in metadata.items()
            ],
            "value": self.node(raw_value(variable), path),
        }
        return {**node, "ref": True} if is_array_ref(variable.get_raw_value()) else node


class Reader(reader.Reader):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._built: dict[str, Any] = {}
        self._in_variable = False

    def special(self, node: dict[str, Any], path: str) -> Any:
        if "frozen" in node:
            return _FROZEN(self.items(node["frozen"], path))
        if "axes" in node:
            return nnx.StateAxes(dict(self.value(node["axes"], path)))
        if "shared" in node:
            return self._built[node["shared"]]
        if "variable" in node:
            self._built[path] = variable = self._variable(node, path)
            return variable
        if "module" not in node:
            return super().special(node, path)
        cls = self.cls(node["module"], path)
        self._built[path] = module = object.__new__(cls)
        # Past `__setattr__`, which is the class's own, and past every descriptor.
        attributes = self.fields(node, cls, path)
        data = {str(name): value is True for name, value in node["data"].items()}
        vars(module).update(
            {
                **attributes,
                _STATE: PytreeState(),
                _DATA: HashableMapping({**data, _STATE: True, _DATA: False}, copy=False),
            }
        )
        return module

    def array(self, node: dict[str, Any], path: str) -> Any:
        found = super().array(node, path)
        # To NNX, what is abstract is no part of a state, unless a variable holds it.
        return found if self._in_variable else _zeros(found)

    def _variable(self, node: dict[str, Any], path: str) -> Any:
        cls: Any = self.cls(node["variable"], path)
        self._in_variable = True
        value = self.value(node["value"], path)
        self._in_variable = False
        if node.get("ref") is True:
            value = jax.new_ref(_zeros(value))
        metadata = {
            str(key): self.value(child, join(path, str(key))) for key, child in node["metadata"]
        }
        return cls.from_metadata(value, {**metadata, "hijax": False})


def _zeros(like: Any) -> Any:
    if not isinstance(like, jax.ShapeDtypeStruct):
        return like
    if jax.numpy.issubdtype(like.dtype, jax.dtypes.prng_key):
        data = jax.eval_shape(jax.random.key_data, like)
        return jax.random.wrap_key_data(_zeros(data), impl=generator_of(like))
    zero = np.zeros((), like.dtype)
    with pytrees.enable_x64(like.dtype.itemsize >= 8):
        return jax.numpy.broadcast_to(
            jax.numpy.asarray(zero.item() if like.weak_type else zero), like.shape
        )


def _order(module: Any) -> Any:
    """How NNX sorts the attributes of a module: those of a list by number."""
    if getattr(type(module), "_pytree__has_int_keys", False):
        return lambda item: (0, int(item[0]), "") if item[0].isdigit() else (1, 0, item[0])
    return lambda item: item[0]
