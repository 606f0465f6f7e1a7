"""Typed random keys: numbers, and the generator that they are for."""

from __future__ import annotations

from typing import Any

import jax

from milepost.errors import DamagedError

GENERATORS = ("threefry2x32", "rbg", "unsafe_rbg")


def generator_of(key: Any) -> Any:
    """The generator of a random key, real or abstract, as JAX names it."""
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), key)
    return found[0]


def abstract_key(data: Any, generator: Any) -> Any:
    """A key without a value, of abstract numbers."""
    if generator not in GENERATORS:
        raise DamagedError(f"the structure has a random key of {generator!r:.80}")
    return jax.eval_shape(lambda data: jax.random.wrap_key_data(data, impl=generator), data)
