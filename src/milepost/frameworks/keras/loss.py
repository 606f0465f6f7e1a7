"""What a live Keras model has and its file will not: a history, attributes of the user's."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

import keras
from milepost.frameworks.keras import naming, optimizers
from milepost.frameworks.keras.naming import layers_by_path
from milepost.limits import shown
from milepost.state import PLAIN_TYPES, join

_ABSENT = object()
# What `compile` and `fit` leave on a model, beside what is saved of it.
_OF_TRAINING = {
    "auto_scale_loss",
    "compiled",
    "input_names",
    "jit_compile",
    "loss",
    "output_names",
    "run_eagerly",
    "steps_per_execution",
    "stop_training",
    "supports_jit",
}
_OF_EVERY = {name for kind in (keras.Model, keras.Sequential) for name in vars(kind(name="any"))}


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


def lost_slots(model: keras.Layer, names: Collection[int]) -> Iterator[str]:
    """What the optimizer remembers of variables that are no longer in the model."""
    optimizer = getattr(model, "optimizer", None)
    gone = optimizers.stranger_slots(optimizer, names) if optimizer is not None else []
    if gone:
        yield (
            f"{len(gone)} slots of its optimizer, for variables that it no longer has: call "
            "compile() again if it is to be trained on"
        )


def lost_attributes(model: keras.Layer, again: keras.Layer) -> Iterator[str]:
    """Plain attributes that the model has and, built again, has not, or has another value of."""
    others = dict(layers_by_path(again))
    for path, layer in layers_by_path(model):
        rebuilt = vars(others[path]) if path in others else {}
        for name, value in vars(layer).items():
            there = rebuilt.get(name, _ABSENT)
            if there is _ABSENT:  # of what begins with _, Keras itself adds some in training
                differs = not name.startswith("_")
            else:
                differs = is_foreign(type(layer)) and not _equal(value, there)
            if differs and _is_plain(value) and not _of_keras(layer, name):
                yield (
                    f"the attribute {join(path, name) if path else name!r} with the value "
                    f"{shown(value)}: have get_config() tell it, or __init__() set it"
                )


def _of_keras(layer: Any, attribute: str) -> bool:
    """Whether Keras itself gives a layer that attribute, and takes care of it."""
    if attribute == "name":
        return naming.is_automatic(layer)
    if attribute.startswith("_") and not is_foreign(type(layer)):
        return True
    return attribute in _OF_TRAINING or attribute in _OF_EVERY


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
