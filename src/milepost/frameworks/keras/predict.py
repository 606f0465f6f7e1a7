"""What a Keras model makes of an example."""

from __future__ import annotations

from typing import Any

import keras


def predict(model: keras.Model, inputs: Any) -> Any:
    """The outputs of a model, not training, as NumPy arrays; it takes the inputs as they are."""
    outputs = model(inputs, training=False)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


def surroundings(model: keras.Model) -> dict[str, str]:
    """On what the bits of its predictions depend, beside versions."""
    backend = keras.backend.backend()
    return {"backend": backend, "device": _device(backend)}


def _device(backend: str) -> str:
    if backend == "tensorflow":
        import tensorflow

        return "gpu" if tensorflow.config.list_physical_devices("GPU") else "cpu"
    if backend == "jax":
        import jax

        return str(jax.default_backend())
    if backend == "torch":
        from keras.src.backend.torch.core import get_device

        return str(get_device()).partition(":")[0]
    return "cpu"
