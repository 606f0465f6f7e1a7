"""NumPy arrays, scalars and generators."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from milepost.errors import UnsupportedObjectError
from milepost.frameworks.base import Capture, Saved
from milepost.state import Rule, join
from milepost.tree import Structure

ARRAYS = {"numpy.generic": lambda array: array[()]}


_VALUES = (np.ndarray, np.generic)
_GENERATORS = (np.random.Generator, np.random.RandomState, np.random.BitGenerator)


def handles(value: Any) -> bool:
    return isinstance(value, (*_VALUES, *_GENERATORS))


def capture(value: Any, name: str, capture: Capture) -> Structure:
    if isinstance(value, np.ma.MaskedArray):
        raise UnsupportedObjectError(
            f"{name} is a masked array, whose mask would be lost: save its .data and its .mask"
        )
    if isinstance(value, np.generic):
        capture.leaf(name, value)
        return {"leaf": "numpy.generic"}
    if isinstance(value, np.ndarray):
        late = value.flags.writeable
        capture.leaf(name, np.asarray(value), memory=_memory(value), late=late)
        return None
    structure = capture.opaque(name, _state(value))
    capture.rule(join(name, "bit_generator"), Rule.FIXED)
    return structure


def apply(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    if isinstance(value, _VALUES):
        if not saved.has(name):
            return value
        if isinstance(value, np.ndarray) and value.flags.writeable:
            into = np.asarray(value) if value.dtype.isnative else None
            saved.place(name, partial(value.__setitem__, ...), into)
            return value
        new = saved.value(name, node)
        return new[()] if isinstance(value, np.generic) and isinstance(new, np.ndarray) else new
    if saved.can_build(name, node):
        saved.at_once(partial(_set_state, value), saved.build(name, node), _state(value))
    return value


def copied(value: Any, copied: Callable[[Any], Any]) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


def _memory(array: np.ndarray[Any, Any]) -> tuple[Any, ...]:
    return "numpy", array.ctypes.data, array.shape, array.strides, array.dtype


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
