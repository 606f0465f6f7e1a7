"""Keras's own files through `milepost.convert`, and back into Keras."""

from __future__ import annotations

import numpy as np
import pytest

import milepost
from milepost.conversion import convert
from milepost.errors import UsageError

keras = pytest.importorskip("keras")


def _model(dtype: str = "float32"):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, name="first", dtype=dtype),
            keras.layers.BatchNormalization(dtype=dtype),
            keras.layers.Dense(2, name="second", dtype=dtype),
        ]
    )
    model.compile("adam", "mse")
    return model


def _same(model, other) -> None:
    pairs = zip(map(np.asarray, model.weights), map(np.asarray, other.weights), strict=True)
    for found, expected in pairs:
        assert found.dtype == expected.dtype
        assert found.tobytes() == expected.tobytes(), expected


@pytest.mark.parametrize("through", ["new.pt", "new.npz", "new.safetensors", "store"])
def test_weights_that_went_through_another_format_load(tmp_path, through):
    model, other = _model(), _model()
    model.save_weights(tmp_path / "source.weights.h5")
    arguments = {"to": "store"} if through == "store" else {}
    convert(tmp_path / "source.weights.h5", tmp_path / through, **arguments)
    convert(tmp_path / through, tmp_path / "back.weights.h5")
    other.load_weights(tmp_path / "back.weights.h5")
    _same(other, model)


def test_weights_of_a_whole_model_load(tmp_path):
    model, other = _model(), _model()
    model.save(tmp_path / "source.keras")
    convert(tmp_path / "source.keras", tmp_path / "new.weights.h5")
    other.load_weights(tmp_path / "new.weights.h5")
    _same(other, model)


def test_bfloat16_weights_load(tmp_path):
    model, other = _model("bfloat16"), _model("bfloat16")
    model.save_weights(tmp_path / "source.weights.h5")
    convert(tmp_path / "source.weights.h5", tmp_path / "new.h5")
    (tmp_path / "new.h5").rename(tmp_path / "new.weights.h5")
    other.load_weights(tmp_path / "new.weights.h5")
    _same(other, model)


@pytest.mark.parametrize("name", ["source.keras", "source.h5"])
def test_a_whole_model_becomes_one_of_ours(tmp_path, name):
    model = _model()
    model.save(tmp_path / name)
    convert(tmp_path / name, tmp_path / "model", to="model")
    loaded = milepost.load_model(tmp_path / "model")
    _same(loaded, model)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert np.array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert type(loaded.optimizer).__name__ == "Adam"


def test_weights_alone_are_no_model(tmp_path):
    _model().save_weights(tmp_path / "source.weights.h5")
    with pytest.raises(UsageError, match="no model's structure"):
        convert(tmp_path / "source.weights.h5", tmp_path / "model", to="model")
    assert not (tmp_path / "model").exists()
