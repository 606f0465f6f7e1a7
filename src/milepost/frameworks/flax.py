"""Flax NNX: modules, optimizers, metrics and random streams, under NNX's own paths.

Linen needs nothing of its own: its parameters and its TrainState are pytrees.
"""

from __future__ import annotations

from typing import Any

from flax import nnx

from milepost.frameworks.base import Capture, Saved
from milepost.state import join
from milepost.tree import Structure, children


def handles(value: Any) -> bool:
    return isinstance(value, nnx.Pytree | nnx.Variable)


def capture(value: Any, name: str, capture: Capture) -> Structure:
    if isinstance(value, nnx.Variable):
        return capture.child(name, value.get_value())
    parts = [
        [key, capture.child(join(name, key), part)] for key, (_, part) in _state(value).items()
    ]
    return {"object": parts, "class": f"{type(value).__module__}.{type(value).__qualname__}"}


def apply(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    if isinstance(value, nnx.Variable):
        value.set_value(saved.child(name, value.get_value(), node))
        return value
    nodes = dict(children(node))
    restored = [
        (path, saved.child(join(name, key), part, nodes.get(key)))
        for key, (path, part) in _state(value).items()
    ]
    # The parts are copies; this puts their values into the live variables.
    nnx.update(value, nnx.from_flat_state(restored))
    return value


def _state(value: Any) -> dict[str, tuple[Any, Any]]:
    """Path as text -> (path, variable or array), each shared one once."""
    return {
        "/".join(map(str, path)): (path, part) for path, part in nnx.to_flat_state(nnx.state(value))
    }
