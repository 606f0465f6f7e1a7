"""What is done to layers after they are made, and what their configurations do not always tell.

A layer inside of a class of the user's that was frozen, the quantised layers of a
`MultiHeadAttention`, the `lora_alpha` that Keras's own `build` overwrites (Keras 3.15): each is
kept beside the configuration, under the layer's path, and done again to the rebuilt layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from milepost.frameworks.keras.naming import layers_by_path

# How quantised layers are made again; of the others, each needs the data that it was tuned on.
_MODES = ("int8", "int4", "float8")

Changes = dict[str, dict[str, Any]]


def changes(model: keras.Layer) -> Changes:
    """What was done to each layer of a model, by its path: JSON."""
    found = {path: _changes(layer) for path, layer in layers_by_path(model)}
    return {path: notes for path, notes in found.items() if notes}


def _changes(layer: Any) -> dict[str, Any]:
    notes: dict[str, Any] = {}
    if not layer.trainable:
        notes["trainable"] = False
    if _mode(layer) in _MODES:
        config = getattr(layer, "quantization_config", None)
        notes["quantised"] = {
            "mode": _mode(layer),
            "config": keras.saving.serialize_keras_object(config) if config else None,
        }
    if getattr(layer, "lora_enabled", False):
        notes["lora"] = {"rank": layer.lora_rank, "alpha": layer.lora_alpha}
    return notes


def make_changes(model: keras.Layer, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Do to the layers of a rebuilt model what `changes` told."""
    # A layer's flag becomes that of all layers inside it, and these come after it.
    for path, layer in layers_by_path(model):
        notes = wanted.get(path, {})
        quantised, lora = notes.get("quantised"), notes.get("lora")
        if quantised and _mode(layer) is None:
            _quantise(layer, **quantised)
        if lora:
            if not layer.lora_enabled:
                layer.enable_lora(lora["rank"])
            layer.lora_alpha = lora["alpha"]
        if layer.trainable != notes.get("trainable", True):
            layer.trainable = not layer.trainable


def _mode(layer: Any) -> str | None:
    return getattr(layer, "quantization_mode", None)


def _quantise(layer: Any, mode: str, config: Mapping[str, Any] | None) -> None:
    made = keras.saving.deserialize_keras_object(config, safe_mode=True) if config else None
    layer.quantize(mode, config=made)
