"""What a JAX model makes of an example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from milepost.errors import UnsupportedObjectError
from milepost.frameworks import pytrees

_CONTAINERS = (dict, list, tuple, type(None))


def call(function: Callable[..., Any], inputs: Any) -> Any:
    """Call it: a tuple is its arguments, a dict those by name; NumPy arrays become JAX arrays."""
    given = jax.tree.map(_array, inputs, is_leaf=lambda part: not isinstance(part, _CONTAINERS))
    if isinstance(given, tuple):
        return function(*given)
    return function(**given) if isinstance(given, dict) else function(given)


def surroundings(model: Any) -> dict[str, str]:
    """On what the bits of its predictions depend, beside versions."""
    return {"device": str(jax.devices()[0].device_kind)}


def _array(value: Any) -> Any:
    if not isinstance(value, _CONTAINERS) and pytrees.is_node(value):
        raise UnsupportedObjectError(
            f"the example's inputs have a {type(value).__module__}.{type(value).__qualname__}, "
            "which comes back as a dict of its parts: pass arrays, numbers and texts, in tuples, "
            "lists and dicts, and make it a part of the model"
        )
    return jax.numpy.asarray(value) if isinstance(value, np.ndarray | np.generic) else value
