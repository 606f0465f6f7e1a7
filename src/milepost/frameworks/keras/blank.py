"""Building a model whose variables have shapes and no values yet.

A structure out of a file may ask for variables of any size. Built blank it costs no memory,
and what it asks for is compared with the leaves of the file before anything is allocated.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras
from milepost.errors import UntrustedError
from milepost.frameworks.keras.naming import layer_variables
from milepost.state import LeafSpec

# Together, the variables that the file has no values for; a model's seeds and metrics are few.
_LARGEST_STRANGERS = 1 << 22  # elements


@contextlib.contextmanager
def without_values(
    specs: Mapping[str, LeafSpec] | None = None,
) -> Iterator[list[keras.Variable]]:
    """Variables that are made inside have shapes and no values; yields a list of them.

    Raises:
        UntrustedError: they are far larger than what the file has values for, its `specs`.
    """
    from keras.src.backend.common import global_state

    key = "uninitialized_variables"
    before = list(global_state.get_global_attribute(key) or [])
    made: list[keras.Variable] = []
    try:
        global_state.set_global_attribute(key, made)
        with keras.StatelessScope(initialize_variables=False):
            yield made
    finally:
        global_state.set_global_attribute(key, before)
        if specs is not None:
            _refuse_giants(made, specs)


def _refuse_giants(variables: list[keras.Variable], specs: Mapping[str, LeafSpec]) -> None:
    expected = sum(math.prod(spec.shape or ()) for spec in specs.values())
    asked = sum(math.prod(_shape(variable)) for variable in variables)
    if asked > 2 * expected + _LARGEST_STRANGERS:
        raise UntrustedError(
            f"the structure asks for variables of {asked:,} elements, and the file has values for "
            f"{expected:,}"
        )


def give_values(
    model: keras.Layer, variables: list[keras.Variable], specs: Mapping[str, LeafSpec]
) -> None:
    """Give blank variables their initial values, or zeros where the file's will follow."""
    follow = {
        id(v) for name, v in layer_variables(model, "layers").items() if _fits(specs.get(name), v)
    }
    zeros = keras.initializers.Zeros()
    blank: list[Any] = variables
    for variable in blank:
        if id(variable) in follow:
            variable._initializer = zeros
        variable._deferred_initialize()


def _fits(spec: LeafSpec | None, variable: keras.Variable) -> bool:
    return spec is not None and spec.shape == _shape(variable)


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.shape)
