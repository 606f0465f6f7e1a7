"""Classes and functions of the user's, and what of a model gets lost."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import keras
import milepost
from milepost import errors, load_model, save_model

from .conftest import X, Y, make_model, predictions, train, values


@milepost.register(name="tests/Doubling")
class Doubling(keras.layers.Layer):
    def call(self, x):
        return 2 * x


@milepost.register(name="tests/far")
def far(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred))


@milepost.register
class Stepping(keras.Model):
    """A train_step of its own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = keras.layers.Dense(3)
        self.seen = keras.metrics.Mean(name="seen")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x)

    def train_step(self, *arguments):
        self.seen.update_state(1.0)
        return super().train_step(*arguments)


class Share(keras.metrics.Metric):
    def __init__(self, name="share", **options):
        super().__init__(name=name, **options)
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(1.0)

    def result(self):
        return self.total / 2


def with_doubling():
    return keras.Sequential([keras.Input((5,)), Doubling(), keras.layers.Dense(3)])


def test_a_class_that_is_registered_under_another_name(tmp_path):
    report = save_model(with_doubling(), tmp_path / "model")
    assert report.needs == ("tests/Doubling",)
    loaded = load_model(tmp_path / "model")
    assert type(loaded.layers[0]) is Doubling


def test_a_registered_loss_and_a_passed_metric(tmp_path):
    model = make_model(compiled=False)
    model.compile("adam", loss=far, metrics=[Share()])
    train(model, 2)
    save_model(model, tmp_path / "model")
    custom = {"Share": Share, "far": far}
    loaded = load_model(tmp_path / "model", custom_objects=custom)
    for trained in (model, loaded):
        keras.utils.set_random_seed(5)
        train(trained, 2)
    assert values(loaded) == values(model)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="train_step differs")
def test_a_train_step_of_its_own(tmp_path):
    model = Stepping()
    model(X)
    model.compile("adam", "mse")
    model.train_on_batch(X, Y)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert type(loaded) is Stepping
    loaded.train_on_batch(X, Y)
    model.train_on_batch(X, Y)
    assert values(loaded) == values(model)


def test_trust_imports_what_a_file_names(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_layers.py").write_text(
        "import keras\n\nclass Tripling(keras.layers.Layer):\n    def call(self, x):\n"
        "        return 3 * x\n"
    )
    import own_layers

    model = keras.Sequential([keras.Input((5,)), own_layers.Tripling()])
    save_model(model, tmp_path / "model")
    expected = predictions(model)
    del sys.modules["own_layers"]
    with pytest.raises(errors.UnknownClassError, match="Tripling"):
        load_model(tmp_path / "model")
    assert "own_layers" not in sys.modules
    assert predictions(load_model(tmp_path / "model", trust=True)) == expected
    assert "own_layers" in sys.modules


def test_an_ordinary_model_loses_nothing(tmp_path):
    model = make_model()
    train(model, 2)
    assert save_model(model, tmp_path / "model", strict=True).lost == ()


def test_a_history_and_attributes_are_lost(tmp_path):
    model = make_model()
    model.fit(X, Y, epochs=2, verbose=0)
    model.labels = ["a", "b"]
    model.layers[0].scale = np.ones(2)
    lost = save_model(model, tmp_path / "model").lost
    assert len(lost) == 3
    assert "2 epochs of loss, mae" in lost[0]
    assert "'labels'" in lost[1]
    assert "'layers" in lost[2] or "dense/scale" in lost[2]
    with pytest.raises(errors.UnsupportedObjectError, match="strict=True.*history"):
        save_model(model, tmp_path / "other", strict=True)
    assert not (tmp_path / "other").exists()
