"""What a JAX model makes of an example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def call(function: Callable[..., Any], inputs: Any) -> Any:
    """Call it: a tuple is its arguments, a dict those by name; NumPy arrays become JAX arrays."""
    given = jax.tree.map(_array, inputs)
    if isinstance(given, tuple):
        return function(*given)
    return function(**given) if isinstance(given, dict) else function(given)


def surroundings(model: Any) -> dict[str, str]:
    """On what the bits of its predictions depend, beside versions."""
    return {"device": str(jax.devices()[0].device_kind)}


def _array(value: Any) -> Any:
    return jax.numpy.asarray(value) if isinstance(value, np.ndarray | np.generic) else value
