"""Equinox modules: their arrays and numbers. What else a module holds is its code's.

An activation function or a string is a leaf to JAX; to a checkpoint it is part of the
program, and a restore keeps the live one. `equinox.tree_serialise_leaves` does the same.
"""

from __future__ import annotations

from typing import Any

import equinox
import numpy as np

from milepost import tree
from milepost.frameworks import pytrees
from milepost.frameworks.base import Capture, Saved
from milepost.state import join
from milepost.tree import Structure


def handles(value: Any) -> bool:
    return isinstance(value, equinox.Module) and not isinstance(value, type)


def capture(value: Any, name: str, capture: Capture) -> Structure:
    children = [
        [key, capture.child(join(name, key), part)]
        for key, part in pytrees.node_items(value)
        if _is_state(part)
    ]
    return {"object": children, "class": f"{type(value).__module__}.{type(value).__qualname__}"}


def apply(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    nodes = dict(tree.children(node))
    return pytrees.rebuilt(
        value,
        [
            saved.child(join(name, key), part, nodes.get(key)) if _is_state(part) else part
            for key, part in pytrees.node_items(value)
        ],
    )


def _is_state(part: Any) -> bool:
    """Whether a part of a module is saved: arrays, numbers, and what holds them."""
    if isinstance(part, bool | int | float | np.ndarray | np.generic) or equinox.is_array(part):
        return True
    return pytrees.is_node(part)
