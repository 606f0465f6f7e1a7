"""`RandomState`: every global random generator that the program uses, as one object."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

from milepost.frameworks import imported
from milepost.frameworks.base import Capture, Saved
from milepost.state import Rule, join
from milepost.tree import Structure, children


class RandomState:
    """Stands for the global generators of Python, NumPy, PyTorch, TensorFlow and Keras.

    Put one into a checkpoint, and a restore continues their random numbers where the save
    was: `Checkpoint(model=model, random=RandomState())`. A generator is included if the
    program has imported its framework and the framework has made it. JAX has none: its keys
    are values, saved with the tree that holds them.
    """

    def __init__(self) -> None:
        # Generators that a snapshot has and this program has not made yet.
        self._wanted: frozenset[str] = frozenset()

    def generators(self) -> dict[str, Any]:
        """The generators by name."""
        found: dict[str, Any] = {"python": random._inst}  # type: ignore[attr-defined]
        for framework in imported():
            if hasattr(framework, "global_generators"):
                found |= framework.global_generators(self._wanted)
        return found


def handles(value: Any) -> bool:
    return isinstance(value, RandomState)


def prepare(
    value: Any, name: str, config: Mapping[str, Any], names: Iterable[str], objects: Mapping[str, Any]
) -> None:
    """Have the generators made that the snapshot has."""
    inside = (other.removeprefix(f"{name}/") for other in names if other.startswith(f"{name}/"))
    value._wanted = frozenset(other.partition("/")[0] for other in inside)


def capture(value: Any, name: str, capture: Capture) -> Structure:
    # A generator that was not in use when the checkpoint was made stays as it is, and one
    # whose framework this program does not use is of no use to it.
    capture.rule(name, Rule.KEEPS | Rule.IGNORES)
    generators = value.generators().items()
    return {"dict": [[key, capture.child(join(name, key), part)] for key, part in generators]}


def apply(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    nodes = dict(children(node))
    for key, generator in value.generators().items():
        saved.child(join(name, key), generator, nodes.get(key))
    return value
