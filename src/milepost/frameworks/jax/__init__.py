"""JAX: arrays, typed random keys, and the nodes of any registered pytree class.

Dicts, lists, tuples and named tuples are `python`'s; here are the leaves, and the classes
that a program has registered with JAX (Flax's TrainState, Haiku's maps, its own).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from milepost import tree
from milepost.dtypes import Array
from milepost.errors import UnsupportedObjectError
from milepost.frameworks import pytrees
from milepost.frameworks.base import Capture, Saved
from milepost.frameworks.jax.functions import build, describe, export, predict, surroundings
from milepost.frameworks.pytrees.keys import generator_of
from milepost.state import Rule, join
from milepost.tree import Structure

__all__ = [
    "ARRAYS",
    "apply",
    "build",
    "capture",
    "copied",
    "describe",
    "export",
    "handles",
    "predict",
    "surroundings",
]

_BUILTIN = (dict, list, tuple, type(None))


def _new(array: Array) -> jax.Array:
    """A new array of the same dtype, also if it has 64 bits and the program has not."""
    with pytrees.enable_x64():
        return jax.numpy.asarray(array)


ARRAYS = {"jax": _new}


def handles(value: Any) -> bool:
    if isinstance(value, jax.Array | jax.ShapeDtypeStruct):
        return True
    return not isinstance(value, _BUILTIN) and pytrees.is_node(value)


def capture(value: Any, name: str, capture: Capture) -> Structure:
    if isinstance(value, jax.Array | jax.ShapeDtypeStruct):
        if isinstance(value, jax.core.Tracer):
            raise UnsupportedObjectError(
                f"{name} is being traced and has no value: save outside of jit"
            )
        if _is_key(value):
            return _capture_key(value, name, capture)
        if isinstance(value, jax.ShapeDtypeStruct):
            capture.leaf(name, AbstractLeaf(name, value))
            return {"leaf": "jax"}
        if not value.is_fully_addressable:
            raise UnsupportedObjectError(
                f"{name} is spread over several processes, which this version cannot save: "
                "gather it first (jax.experimental.multihost_utils.process_allgather)"
            )
        # One that was donated to a computation has no value any more: a restore does not mind.
        capture.leaf(name, value, immutable=not value.is_deleted())
        return {"leaf": "jax"}
    children = [
        [key, capture.child(join(name, key), part)] for key, part in pytrees.node_items(value)
    ]
    return {"object": children, "class": f"{type(value).__module__}.{type(value).__qualname__}"}


def copied(value: Any, copied: Callable[[Any], Any]) -> Any:
    if isinstance(value, jax.Array | jax.ShapeDtypeStruct):
        return value
    return pytrees.rebuilt(value, [copied(part) for _, part in pytrees.node_items(value)])


def apply(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    if isinstance(value, jax.Array | jax.ShapeDtypeStruct):
        if _is_key(value):
            return _apply_key(value, name, saved)
        return _placed(saved.leaves[name], value) if saved.has(name) else value
    nodes = dict(tree.children(node))
    return pytrees.rebuilt(
        value,
        [
            saved.child(join(name, key), part, nodes.get(key))
            for key, part in pytrees.node_items(value)
        ],
    )


def _placed(array: Any, like: Any) -> Any:
    """An array where the one is that it replaces, and of the same kind but for the value."""
    with _place(like) as sharding:
        return jax.device_put(_weak(array) if like.weak_type else array, sharding)


@contextlib.contextmanager
def _place(like: Any) -> Iterator[Any]:
    """Yields the sharding for what replaces `like`: None if it is not committed to its own.

    JAX moves such an array to where the others of a computation are; one that is committed
    to the same device would have it fail. 64 bits are on, for a saved dtype is to stay.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytrees.enable_x64())
        if getattr(like, "committed", True):  # an abstract one with a sharding asks for it
            yield like.sharding
        else:
            stack.enter_context(jax.default_device(*like.sharding.device_set))
            yield None


def _weak(array: Array) -> Any:
    """An array weakly typed, as one made of a Python number: what it meets keeps its dtype."""
    with pytrees.enable_x64(array.dtype in ("int64", "float64", "complex128")):
        zero = jax.numpy.asarray(array.dtype.type(0).item())
        weak = jax.numpy.broadcast_to(zero, array.shape).at[...].set(array)
    return weak if weak.dtype == array.dtype else array


def _is_key(value: Any) -> bool:
    if isinstance(value.dtype, np.dtype):  # most often, and told at once
        return False
    return bool(jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key))


def _capture_key(value: Any, name: str, capture: Capture) -> Structure:
    """A typed key is its numbers and the name of their generator."""
    data: Any
    if isinstance(value, jax.ShapeDtypeStruct):
        struct = jax.eval_shape(jax.random.key_data, value)
        data = AbstractLeaf(join(name, "data"), struct)
    else:
        data = jax.random.key_data(value)
    capture.leaf(join(name, "data"), data)
    capture.leaf(join(name, "generator"), str(generator_of(value)))
    capture.rule(name, Rule(0))
    capture.rule(join(name, "generator"), Rule.FIXED)
    return {
        "object": [["data", {"leaf": "jax"}], ["generator", None]],
        "class": "jax.random.key",
    }


def _apply_key(value: Any, name: str, saved: Saved) -> Any:
    if not saved.has(join(name, "data")):
        return value
    with _place(value) as sharding:
        data = jax.numpy.asarray(saved.leaves[join(name, "data")])
        return jax.device_put(jax.random.wrap_key_data(data, impl=generator_of(value)), sharding)


class AbstractLeaf:
    """A leaf that has a dtype and a shape and no value: something to restore into."""

    def __init__(self, name: str, struct: jax.ShapeDtypeStruct) -> None:
        self._name = name
        self.dtype: np.dtype[Any] = np.dtype(struct.dtype)
        self.shape: tuple[int, ...] = tuple(struct.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise UnsupportedObjectError(
            f"{self._name} is abstract (jax.ShapeDtypeStruct) and has no value to save"
        )
