"""What a live Keras model has and its file will not: a history, attributes of the user's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import keras
from milepost.frameworks.keras.naming import layers_by_path
from milepost.limits import shown
from milepost.state import PLAIN_TYPES, join

_ABSENT = object()
# What `compile` and `fit` leave on a model, beside what is saved of it.
_OF_TRAINING = {
    "auto_scale_loss",
    "compiled",
    "jit_compile",
    "run_eagerly",
    "steps_per_execution",
    "stop_training",
    "supports_jit",
}


def lost_history(model: keras.Layer) -> Iterator[str]:
    """The record of the last `fit`."""
    history = getattr(getattr(model, "history", None), "history", None)
    if history:
        rounds = len(next(iter(history.values())))
        yield (
            f"the history of its last fit() ({rounds} epochs of {', '.join(sorted(history))}): "
            "save model.history.history with metadata= if it matters"
        )


def lost_compilation(model: keras.Layer) -> Iterator[str]:
    """How it was compiled, where its class compiles in a way of its own."""
    if not getattr(model, "compiled", False):
        return
    kind: Any = type(model)
    if (
        kind.compile is not keras.Model.compile
        and kind.compile_from_config is keras.Model.compile_from_config
    ):
        yield (
            f"how it was compiled: {kind.__name__} has a compile() of its own; give it "
            "get_compile_config() and compile_from_config()"
        )


def lost_attributes(model: keras.Layer, again: keras.Layer) -> Iterator[str]:
    """Plain attributes that the model has and, built again, has not, or has another value of."""
    others = dict(layers_by_path(again))
    for path, layer in layers_by_path(model):
        rebuilt = vars(others[path]) if path in others else {}
        for name, value in vars(layer).items():
            there = rebuilt.get(name, _ABSENT)
            differs = there is _ABSENT or (is_foreign(type(layer)) and not _equal(value, there))
            if name.startswith("_") or name in _OF_TRAINING or not _is_plain(value):
                continue
            if differs:
                yield (
                    f"the attribute {join(path, name) if path else name!r} with the value "
                    f"{shown(value)}: have get_config() tell it, or __init__() set it"
                )


def is_foreign(kind: type) -> bool:
    """Whether a class is not Keras's own."""
    return not kind.__module__.startswith("keras.src.")


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    return isinstance(value, (np.ndarray, np.generic, *PLAIN_TYPES))


def _equal(value: Any, other: Any) -> bool:
    if isinstance(value, np.ndarray | np.generic) or isinstance(other, np.ndarray | np.generic):
        return bool(np.array_equal(value, other))
    return repr(value) == repr(other)  # a nan is itself
