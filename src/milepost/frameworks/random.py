"""`RandomState`: every global random generator that the program uses, as one object."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from milepost.frameworks import finder, imported, makers
from milepost.frameworks.base import Capture, Saved, capture_objects
from milepost.state import Rule, is_plain, join
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
        # Those that it does not stand for.
        self._excluded: frozenset[str] = frozenset()

    def generators(self) -> dict[str, Any]:
        """The generators by name."""
        found: dict[str, Any] = {"python": random._inst}
        for framework in imported():
            if hasattr(framework, "global_generators"):
                found |= framework.global_generators(self._wanted)
        return {name: one for name, one in found.items() if name not in self._excluded}


class RememberedRandomness:
    """The state of all global generators at one moment, to return to.

    It can be part of a checkpoint itself: `fit` continues in the middle of an epoch from the
    randomness with which the epoch's order was drawn.
    """

    def __init__(self) -> None:
        self._leaves: dict[str, Any] = {}
        self._structure: Structure = None

    def remember(self) -> None:
        """Take the state of all generators as it is now."""
        state = capture_objects({"random": RandomState()}, finder())
        self._structure = state.objects["random"].structure
        self._leaves = {n: v if is_plain(v) else np.array(v) for n, v in state.leaves.items()}

    def recall(self) -> None:
        """Put the generators back into that state: those that have left it.

        The others are not touched: to set TensorFlow's seed, even to what it is, makes it forget
        all the kernels of its operations, the random ones' positions among them.
        """
        now = RandomState()
        now._excluded = self._unmoved()
        saved = Saved(self._leaves, {}, finder(), makers=makers())
        saved.child("random", now, self._structure)
        saved.finish()

    def _unmoved(self) -> frozenset[str]:
        """The generators whose state is still the one that was remembered."""
        now = RememberedRandomness()
        now.remember()
        names = {name.split("/")[1] for name in [*self._leaves, *now._leaves]}
        return frozenset(names - {name.split("/")[1] for name in _different(self, now)})

    def state_dict(self) -> dict[str, Any]:
        return {"leaves": self._leaves, "structure": json.dumps(self._structure)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._leaves = dict(state["leaves"])
        self._structure = json.loads(state["structure"])


def _different(one: RememberedRandomness, other: RememberedRandomness) -> list[str]:
    """The leaves that the two have different values of, or only one of them has."""
    a, b = one._leaves, other._leaves
    return [n for n in {*a, *b} if n not in a or n not in b or not np.array_equal(a[n], b[n])]


def handles(value: Any) -> bool:
    return isinstance(value, RandomState)


def prepare(
    value: Any,
    name: str,
    config: Mapping[str, Any],
    names: Iterable[str],
    objects: Mapping[str, Any],
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
