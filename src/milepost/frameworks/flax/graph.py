"""The state of what is Flax NNX's: modules, optimizers, metrics and random streams.

Its leaves have NNX's own paths.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx
from flax.nnx.variablelib import is_array_ref

from milepost.frameworks.base import Capture, Saved
from milepost.state import join
from milepost.tree import Structure, children


def capture(value: Any, name: str, capture: Capture) -> Structure:
    if isinstance(value, nnx.Variable):
        return capture.child(name, raw_value(value))
    # Two paths of one text are two leaves of one name, which `capture.leaf` refuses.
    parts = [[key, capture.child(join(name, key), part)] for key, _, part in flat_state(value)]
    return {"object": parts, "class": f"{type(value).__module__}.{type(value).__qualname__}"}


def apply(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    if isinstance(value, nnx.Variable):
        saved.later(_set_raw_value, value, saved.child(name, raw_value(value), node))
        return value
    nodes = dict(children(node))
    restored = [
        (path, saved.child(join(name, key), part, nodes.get(key)))
        for key, path, part in flat_state(value)
    ]
    # The parts are copies; this puts their values into the live variables.
    saved.later(nnx.update, value, nnx.from_flat_state(restored))
    return value


def raw_value(variable: Any) -> Any:
    """A variable's value in containers of its own, past the hooks that reading it would run."""
    raw = variable.get_raw_value()
    if is_array_ref(raw):
        return raw[...]
    return jax.tree.map(lambda part: part, raw)


def _set_raw_value(variable: Any, value: Any) -> None:
    """Set a variable's value, past its hooks: what was saved has been through them."""
    raw = variable.get_raw_value()
    if is_array_ref(raw):
        raw[...] = value
    else:
        variable.set_raw_value(value)


def flat_state(value: Any) -> list[tuple[str, Any, Any]]:
    """(path as text, path, variable or array), each shared one once."""
    return [
        ("/".join(map(str, path)), path, part) for path, part in nnx.to_flat_state(nnx.state(value))
    ]
