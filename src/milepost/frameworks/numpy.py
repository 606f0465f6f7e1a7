"""NumPy arrays, scalars and generators."""

from __future__ import annotations

from typing import Any

import numpy as np

from milepost.frameworks.base import Capture, Saved
from milepost.state import Rule, join
from milepost.tree import Structure

ARRAYS = {"numpy.generic": lambda array: array[()]}


def handles(value: Any) -> bool:
    return isinstance(
        value,
        np.ndarray
        | np.generic
        | np.random.Generator
        | np.random.RandomState
        | np.random.BitGenerator,
    )


def capture(value: Any, name: str, capture: Capture) -> Structure:
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if isinstance(value, np.generic):
            capture.leaf(name, array)
            return {"leaf": "numpy.generic"}
        capture.leaf(name, array, memory=_memory(array))
        return None
    structure = capture.replaced(name, _state(value))
    capture.rule(join(name, "bit_generator"), Rule.FIXED)
    return structure


def apply(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        if not saved.has(name):
            return value
        new = saved.value(name, node)
        if isinstance(value, np.ndarray) and value.flags.writeable:
            value[...] = new
            return value
        return new
    if saved.can_build(name, node):
        _set_state(value, saved.build(name, node))
    return value


def _memory(array: np.ndarray[Any, Any]) -> tuple[Any, ...]:
    return (
        "numpy",
        array.__array_interface__["data"][0],
        array.shape,
        array.strides,
        array.dtype.str,
    )


def _state(generator: Any) -> dict[str, Any]:
    if isinstance(generator, np.random.RandomState):
        return dict(generator.get_state(legacy=False))
    bits = generator.bit_generator if isinstance(generator, np.random.Generator) else generator
    return dict(bits.state)


def _set_state(generator: Any, state: dict[str, Any]) -> None:
    if isinstance(generator, np.random.RandomState):
        generator.set_state(state)
        return
    bits = generator.bit_generator if isinstance(generator, np.random.Generator) else generator
    bits.state = state


def global_generators(wanted: frozenset[str]) -> dict[str, Any]:
    """The generator behind `numpy.random.rand` and its like."""
    return {"numpy": np.random.mtrand._rand}
