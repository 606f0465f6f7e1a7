"""A `Sequential` out of its configuration, its layers called once.

Keras's own `from_config` adds them one at a time, and each time makes the whole model anew: 16
layers are called 136 times, which is most of the time that building a small model takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

# No file names it: `trusted.check` has removed or looked up every name that is in the file.
_NAME = "milepost>Sequential"


def replace(nodes: Iterator[tuple[str, dict[str, Any]]], custom: dict[str, Any]) -> None:
    """Have Keras's own `Sequential`s made here, where they are named in a checked structure."""
    custom[_NAME] = _Sequential
    for _, node in nodes:
        if node["class_name"] == "Sequential" and node.get("registered_name") is None:
            node["registered_name"] = _NAME


class _Sequential:
    """What Keras takes for the class."""

    @staticmethod
    def from_config(config: dict[str, Any]) -> keras.Sequential:
        layers = config.get("layers")
        if not layers or not all("module" in layer for layer in layers):
            return keras.Sequential.from_config(config)  # as Keras wrote it long ago
        model = keras.Sequential(name=config["name"])
        for number, layer in enumerate(layers, 1):
            made = keras.saving.deserialize_keras_object(layer)
            model.add(made, rebuild=number == len(layers))
        shape = config.get("build_input_shape")
        if not model.built and shape and isinstance(shape, list | tuple):
            model.build(shape)
        return model
