"""Models that the Keras tests share. The whole folder runs once for each backend."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest

import keras

if keras.backend.backend() == "jax":
    import jax

    # Nearly all tests train the same few models: what one compiled, this process need not compile
    # again. Its children have no part in it, for they are killed at any moment.
    _compiled = tempfile.TemporaryDirectory()
    jax.config.update("jax_compilation_cache_dir", _compiled.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

X = np.linspace(-1, 1, 60, dtype="float32").reshape(12, 5)
Y = np.linspace(0, 1, 36, dtype="float32").reshape(12, 3)


def make_model(compiled: bool = True) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(4, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ]
    )
    if compiled:
        model.compile("adam", "mse", metrics=["mae"])
    return model


def train(model: keras.Model, batches: int = 1) -> None:
    for _ in range(batches):
        model.train_on_batch(X, Y)


def values(model: keras.Model) -> list[bytes]:
    """Every variable of a model, its optimizer and its seeds, to the last bit."""
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else [])]
    return [keras.ops.convert_to_numpy(v.value).tobytes() for v in variables]


def predictions(model: keras.Model, x: np.ndarray = X) -> list:
    return keras.ops.convert_to_numpy(model(x)).tolist()


@pytest.fixture(autouse=True)
def _fresh_names():
    keras.utils.clear_session(free_memory=False)
