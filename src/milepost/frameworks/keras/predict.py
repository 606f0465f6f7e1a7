"""What a Keras model makes of an example."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

import keras
from milepost.dtypes import Array
from milepost.frameworks.keras.naming import layer_variables, layers_by_path
from milepost.undoing import undoing


def predict(model: keras.Model, inputs: Any) -> Any:
    """The outputs of a model, not training, as NumPy arrays; it takes the inputs as they are.

    Texts go in and come out as lists of str, nested as an array would be. The model's seeds,
    the states of recurrent layers and counters of the user's stay what they were.
    """
    with _state_kept(model):
        outputs = model(_given(inputs), **not_training(model))
        return keras.tree.map_structure(_plain, outputs)


@contextlib.contextmanager
def _state_kept(model: keras.Layer) -> Iterator[None]:
    weights = {id(v) for _, layer in layers_by_path(model) for v in layer._trainable_variables}
    variables = [v for v in layer_variables(model, "").values() if id(v) not in weights]
    before = [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables]

    def put_back() -> None:
        for variable, value in zip(variables, before, strict=True):
            if not np.array_equal(keras.ops.convert_to_numpy(variable.value), value):
                variable.assign(value)

    with undoing(put_back):
        yield


def not_training(model: Any) -> dict[str, bool]:
    """The argument of a call that says so, if the model or layer takes it."""
    takes = isinstance(model, keras.Model) or getattr(model, "_call_has_training_arg", True)
    return {"training": False} if takes else {}


def _given(inputs: Any) -> Any:
    """Inputs as a model takes them."""
    if isinstance(inputs, dict):
        return {key: _given(value) for key, value in inputs.items()}
    if isinstance(inputs, list) and all(isinstance(x, str) for x in keras.tree.flatten(inputs)):
        return np.array(inputs)
    if isinstance(inputs, list | tuple):
        return type(inputs)(map(_given, inputs)) if type(inputs) in (list, tuple) else inputs
    return _aligned(inputs) if isinstance(inputs, np.ndarray) else inputs


def _aligned(array: Array, to: int = 64) -> Array:
    """A copy at an address upon which PyTorch's choice of instructions, and so bits, depends."""
    memory = np.empty(array.nbytes + to, np.uint8)
    start = -memory.ctypes.data % to
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _plain(output: Any) -> Any:
    if isinstance(output, str):
        return output
    array = keras.ops.convert_to_numpy(output)
    return array if array.dtype != object else np.char.decode(array.astype("S")).tolist()


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
