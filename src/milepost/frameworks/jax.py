"""JAX: arrays, typed random keys, and the nodes of any registered pytree class.

Dicts, lists, tuples and named tuples are `python`'s; here are the leaves, and the classes
that a program has registered with JAX (Flax's TrainState, Haiku's maps, its own).
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from milepost import tree
from milepost.errors import UnsupportedObjectError
from milepost.frameworks import pytrees
from milepost.frameworks.base import Capture, Saved
from milepost.state import Rule, join
from milepost.tree import Structure

_BUILTIN = (dict, list, tuple, type(None))

ARRAYS = {"jax": jax.numpy.asarray}


def handles(value: Any) -> bool:
    if isinstance(value, jax.Array | jax.ShapeDtypeStruct):
        return True
    return not isinstance(value, _BUILTIN) and pytrees.is_node(value)


def capture(value: Any, name: str, capture: Capture) -> Structure:
    if isinstance(value, jax.ShapeDtypeStruct):
        capture.leaf(name, AbstractLeaf(name, value))
        return {"leaf": "jax"}
    if isinstance(value, jax.Array):
        if isinstance(value, jax.core.Tracer):
            raise UnsupportedObjectError(
                f"{name} is being traced and has no value: save outside of jit"
            )
        if _is_key(value):
            return _capture_key(value, name, capture)
        if not value.is_fully_addressable:
            raise UnsupportedObjectError(
                f"{name} is spread over several processes, which this version cannot save: "
                "gather it first (jax.experimental.multihost_utils.process_allgather)"
            )
        capture.leaf(name, value)
        return {"leaf": "jax"}
    children = [
        [key, capture.child(join(name, key), part)] for key, part in pytrees.node_items(value)
    ]
    return {"object": children, "class": f"{type(value).__module__}.{type(value).__qualname__}"}


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


def _placed(array: Any, like: Any) -> jax.Array:
    """An array on the devices, and with the sharding, of the one that it replaces."""
    sharding = like.sharding
    return jax.device_put(array, sharding) if sharding is not None else jax.numpy.asarray(array)


def _is_key(value: Any) -> bool:
    return bool(jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key))


def _capture_key(value: Any, name: str, capture: Capture) -> Structure:
    """A typed key is its numbers and the name of their generator."""
    if isinstance(value, jax.ShapeDtypeStruct):
        raise UnsupportedObjectError(
            f"{name} is an abstract random key: pass a real one to restore into"
        )
    capture.leaf(join(name, "data"), jax.random.key_data(value))
    capture.leaf(join(name, "generator"), str(jax.random.key_impl(value)))
    capture.rule(name, Rule(0))
    capture.rule(join(name, "generator"), Rule.FIXED)
    return {
        "object": [["data", {"leaf": "jax"}], ["generator", None]],
        "class": "jax.random.key",
    }


def _apply_key(value: Any, name: str, saved: Saved) -> Any:
    if not saved.has(join(name, "data")):
        return value
    data = jax.numpy.asarray(saved.leaves[join(name, "data")])
    key = jax.random.wrap_key_data(data, impl=jax.random.key_impl(value))
    return jax.device_put(key, value.sharding)


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
