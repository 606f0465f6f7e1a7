"""Flax: NNX modules and what belongs to them, and Linen modules that are bound to variables.

A Linen module that is not bound has no state, and its parameters and its TrainState are
pytrees, which need nothing of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import linen, nnx

from milepost.errors import DamagedError
from milepost.frameworks.base import Capture, ModelParts, Saved
from milepost.frameworks.flax import bound, graph, linen_structure, nnx_structure
from milepost.frameworks.pytrees.predict import surroundings
from milepost.program import Program
from milepost.state import LeafSpec
from milepost.tree import Structure

__all__ = [
    "apply",
    "build",
    "capture",
    "describe",
    "export",
    "handles",
    "is_model",
    "predict",
    "surroundings",
]

_STRUCTURES: dict[str, Any] = {"linen": linen_structure, "nnx": nnx_structure}


def handles(value: Any) -> bool:
    return isinstance(value, nnx.Pytree | nnx.Variable | linen.Module)


def is_model(value: Any) -> bool:
    return isinstance(value, nnx.Module | linen.Module)


def capture(value: Any, name: str, capture: Capture) -> Structure:
    if isinstance(value, linen.Module):
        return bound.capture(value, name, capture)
    return graph.capture(value, name, capture)


def apply(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    if isinstance(value, linen.Module):
        return bound.apply(value, name, node, saved)
    return graph.apply(value, name, node, saved)


def describe(model: Any) -> ModelParts:
    """The structure of a module as JSON.

    Raises:
        UnsupportedObjectError: it cannot be built again from that; the message names the part.
    """
    parts: ModelParts = _STRUCTURES[_kind(model)].describe(model)
    return parts


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
    kind = next((kind for kind in _STRUCTURES if kind in structure), None)
    if kind is None:
        raise DamagedError("the structure of the model is that of no Flax module")
    return _STRUCTURES[kind].build(structure, custom, specs)


def predict(model: Any, inputs: Any) -> Any:
    """The outputs of a module: of NNX in evaluation mode, of Linen as its arguments say."""
    return _STRUCTURES[_kind(model)].predict(model, inputs)


def export(model: Any, inputs: Any, signature: Mapping[str, Any]) -> Program:
    """The module, as `predict` runs it, as a StableHLO program."""
    program: Program = _STRUCTURES[_kind(model)].export(model, inputs, signature)
    return program


def _kind(model: Any) -> str:
    return "linen" if isinstance(model, linen.Module) else "nnx"
