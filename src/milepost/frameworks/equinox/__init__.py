"""Equinox modules: their arrays and numbers. What else a module holds is its code's.

An activation function or a string is a leaf to JAX; to a checkpoint it is part of the
program, and a restore keeps the live one. `equinox.tree_serialise_leaves` does the same.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import equinox
import jax
import numpy as np

from milepost import tree
from milepost.frameworks import pytrees
from milepost.frameworks.base import Capture, Saved
from milepost.frameworks.equinox.predict import export, predict, surroundings
from milepost.frameworks.equinox.structure import build, describe
from milepost.state import join
from milepost.tree import Structure, key_text

__all__ = [
    "apply",
    "build",
    "capture",
    "copied",
    "describe",
    "export",
    "handles",
    "is_model",
    "predict",
    "surroundings",
]


def handles(value: Any) -> bool:
    return isinstance(value, equinox.Module) and not isinstance(value, type)


is_model = handles


def capture(value: Any, name: str, capture: Capture) -> Structure:
    children = [
        [key, _capture_part(part, join(name, key), capture)]
        for key, part in pytrees.node_items(value)
        if _is_state(part)
    ]
    return {"object": children, "class": f"{type(value).__module__}.{type(value).__qualname__}"}


def apply(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    nodes = {key_text(key): child for key, child in tree.children(node)}
    return pytrees.rebuilt(
        value,
        [
            _apply_part(part, join(name, key), nodes.get(key), saved) if _is_state(part) else part
            for key, part in pytrees.node_items(value)
        ],
    )


def copied(value: Any, copied: Callable[[Any], Any]) -> Any:
    return pytrees.rebuilt(value, [copied(part) for _, part in pytrees.node_items(value)])


def _capture_part(part: Any, name: str, walk: Capture) -> Structure:
    if _is_complex(part):
        walk.leaf(name, np.asarray(part))
        return None
    return capture(part, name, walk) if _is_mixed(part) else walk.child(name, part)


def _apply_part(part: Any, name: str, node: Structure, saved: Saved) -> Any:
    if _is_complex(part):
        return np.asarray(saved.leaves[name]).item() if saved.has(name) else part
    if isinstance(part, enum.Enum):  # a number too, which is what was saved
        return type(part)(saved.leaves[name]) if saved.has(name) else part
    return apply(part, name, node, saved) if _is_mixed(part) else saved.child(name, part, node)


def _is_state(part: Any) -> bool:
    """Whether a part of a module is saved: arrays, numbers, and what holds them."""
    if isinstance(part, bool | int | float | complex | np.ndarray | np.generic):
        return True
    if equinox.is_array(part) or isinstance(part, jax.ShapeDtypeStruct):
        return True
    return pytrees.is_node(part)


def _is_complex(part: Any) -> bool:
    """Whether a part is Python's kind of complex number, which is no plain value of ours."""
    return isinstance(part, complex) and not isinstance(part, np.generic)


def _is_mixed(part: Any) -> bool:
    """Whether a container in a module holds what its own framework would not take as it is."""
    if isinstance(part, equinox.Module) or not pytrees.is_node(part):
        return False
    leaves = jax.tree.leaves(part, is_leaf=handles)
    return not all(
        handles(leaf)
        or (_is_state(leaf) and not _is_complex(leaf) and not isinstance(leaf, enum.Enum))
        for leaf in leaves
    )
