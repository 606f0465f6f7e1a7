"""TensorFlow: variables, tensors, modules and random generators.

`tf.keras` models are Keras models, which `keras` handles.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from milepost import tree
from milepost.dtypes import Array
from milepost.errors import UnsupportedObjectError
from milepost.frameworks.base import Capture, Saved
from milepost.state import Rule, join
from milepost.tree import Structure

ARRAYS = {"tensorflow": tf.convert_to_tensor}


def handles(value: Any) -> bool:
    return isinstance(value, tf.Variable | tf.Tensor | tf.Module | tf.random.Generator)


def capture(value: Any, name: str, capture: Capture) -> Structure:
    if isinstance(value, tf.Variable | tf.Tensor):
        late = isinstance(value, tf.Variable)
        memory = ("tensorflow", id(value)) if late else None
        capture.leaf(name, TensorLeaf(name, value), memory=memory, late=late)
        return {"leaf": "tensorflow"}
    if isinstance(value, tf.random.Generator):
        capture.leaf(join(name, "state"), value.state.numpy())
        capture.leaf(join(name, "algorithm"), int(value.algorithm))
        capture.rule(name, Rule(0))
        capture.rule(join(name, "algorithm"), Rule.FIXED)
        return {"dict": [["state", None], ["algorithm", None]]}
    parts = [[key, capture.child(join(name, key), part)] for key, part in _parts(value)]
    return {"object": parts, "class": f"{type(value).__module__}.{type(value).__qualname__}"}


def apply(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    if isinstance(value, tf.Variable):
        if saved.has(name):
            saved.place(name, partial(_assign, value), None)
        return value
    if isinstance(value, tf.Tensor):
        return _tensor(saved.leaves[name], value.dtype) if saved.has(name) else value
    if isinstance(value, tf.random.Generator):
        if saved.has(join(name, "state")):
            saved.later(value.reset, saved.leaves[join(name, "state")])
        return value
    nodes = dict(tree.children(node))
    for key, part in _parts(value):
        saved.child(join(name, key), part, nodes.get(key))
    return value


class TensorLeaf:
    """A variable or tensor as a leaf."""

    def __init__(self, name: str, tensor: Any) -> None:
        if tensor.dtype.as_numpy_dtype in (object, np.object_):
            raise UnsupportedObjectError(
                f"{name} has the dtype {tensor.dtype.name}, which is not numeric"
            )
        # A variable's own shape may be open where that of its value never is.
        value = tensor.value() if isinstance(tensor, tf.Variable) else tensor
        if not hasattr(value, "numpy"):
            raise UnsupportedObjectError(
                f"{name} is symbolic and has no value: save outside of tf.function"
            )
        self._tensor = tensor
        self.dtype: np.dtype[Any] = np.dtype(tensor.dtype.as_numpy_dtype)
        self.shape: tuple[int, ...] = tuple(value.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        tensor = self._tensor.value() if isinstance(self._tensor, tf.Variable) else self._tensor
        with contextlib.suppress(TypeError, ValueError):  # bfloat16 has no such view
            return np.asarray(memoryview(tensor))  # over the same memory
        return np.asarray(tensor.numpy())


def _assign(variable: Any, array: Array) -> None:
    variable.assign(_tensor(array, variable.dtype))


def _tensor(array: Any, dtype: Any) -> Any:
    return tf.convert_to_tensor(np.asarray(array), dtype=dtype)


def _parts(module: tf.Module) -> list[tuple[str, Any]]:
    """What a module tracks: variables, modules, generators, and lists and dicts of these."""
    found = tf.train.TrackableView(module).children(module).items()
    return [(key, part) for key, part in found if not _is_function(part)]


def _is_function(part: Any) -> bool:
    """A `tf.function` that a module tracks is its code."""
    return (
        callable(getattr(part, "get_concrete_function", None))
        or type(part).__name__ == "_UniqueFunction"
    )


class EagerGenerator:
    """The global seed's generator: what `tf.random.normal` and its like draw from, eagerly.

    Inside a `tf.function` such an operation keeps a state of its own in its kernel, which
    nobody can read: there, use a `tf.random.Generator`, or the stateless operations.
    """

    def state_dict(self) -> dict[str, Any]:
        seed = _context()._seed
        if seed is None:
            return {"seed": None}
        version, numbers, gauss = _context()._rng.getstate()
        return {
            "seed": seed,
            "version": version,
            "numbers": np.array(numbers, np.uint32),
            "gauss": gauss,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        tf.random.set_seed(state["seed"])
        if state["seed"] is not None:
            numbers = tuple(state["numbers"].tolist())
            _context()._rng.setstate((state["version"], numbers, state["gauss"]))


def _context() -> Any:
    from tensorflow.python.eager import context

    return context.context()


def global_generators(wanted: frozenset[str]) -> dict[str, Any]:
    """The generator behind the global seed, and the global one, if made or wanted."""
    from tensorflow.python.ops import stateful_random_ops

    found: dict[str, Any] = {"tensorflow_seed": EagerGenerator()}
    if stateful_random_ops.global_generator is not None or "tensorflow" in wanted:
        found["tensorflow"] = tf.random.get_global_generator()
    return found
