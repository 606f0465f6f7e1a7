"""Frameworks: one module each, found by an object's own class.

A module is asked only if the framework it is for has been imported by the program already;
nothing is imported to find out that it is absent. Another package adds a framework with an
entry point in the group `milepost.frameworks`, named after the module that must be imported,
whose value is the framework module.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from typing import Any

from milepost.dtypes import Array
from milepost.frameworks.base import Finder, Framework

GROUP = "milepost.frameworks"

# The module that has to be imported, and ours for it. The order matters: a Keras layer may
# be a torch module, and everything may be a JAX pytree.
_OURS = (
    ("milepost", "milepost.frameworks.random"),
    ("keras", "milepost.frameworks.keras"),
    ("flax", "milepost.frameworks.flax"),
    ("equinox", "milepost.frameworks.equinox"),
    ("transformers", "milepost.frameworks.transformers"),
    ("torch", "milepost.frameworks.torch"),
    ("tensorflow", "milepost.frameworks.tensorflow"),
    ("jax", "milepost.frameworks.jax"),
    ("numpy", "milepost.frameworks.numpy"),
    ("milepost", "milepost.frameworks.python"),
)


def finder() -> Finder:
    """A function from an object to its framework module, or None.

    It remembers what it found for each class: use one for one walk.
    """
    frameworks = imported()
    by_class: dict[type, Framework | None] = {}

    def find(value: Any) -> Framework | None:
        kind = type(value)
        if kind not in by_class:
            by_class[kind] = next((f for f in frameworks if f.handles(value)), None)
        return by_class[kind]

    return find


def imported() -> list[Framework]:
    """The modules of all frameworks that the program has imported, those of others first."""
    modules: list[Any] = [point.load() for point in _entry_points() if point.name in sys.modules]
    modules += [importlib.import_module(ours) for root, ours in _OURS if root in sys.modules]
    return modules


@functools.cache
def _entry_points() -> tuple[importlib.metadata.EntryPoint, ...]:
    return tuple(importlib.metadata.entry_points(group=GROUP))


def makers() -> dict[str, Callable[[Array], Any]]:
    """What makes each imported framework's kind of array of a NumPy array."""
    found: dict[str, Callable[[Array], Any]] = {}
    for framework in imported():
        found |= getattr(framework, "ARRAYS", {})
    return found
