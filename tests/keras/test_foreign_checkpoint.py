"""A Keras model restored from what Keras and TensorFlow saved: names that they give, found."""

from __future__ import annotations

import numpy as np
import pytest

import keras
import milepost

X = np.random.default_rng(1).normal(size=(8, 4)).astype("float32")
Y = np.random.default_rng(2).normal(size=(8, 2)).astype("float32")


def network(train: bool = False) -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="relu", name="first"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(5, activation="relu", name="second"),
            keras.layers.Dense(2, name="out"),
        ],
        name="net",
    )
    model.compile("adam", "mse")
    if train:
        model.fit(X, Y, epochs=2, verbose=0)
    return model


def same_weights(model: keras.Model, other: keras.Model) -> bool:
    pairs = zip(model.get_weights(), other.get_weights(), strict=True)
    return all(a.tobytes() == b.tobytes() for a, b in pairs)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own checkpoints")
def test_from_a_tensorflow_checkpoint(tmp_path):
    import tensorflow as tf

    saved, model = network(train=True), network()
    prefix = tf.train.Checkpoint(model=saved, optimizer=saved.optimizer).save(
        str(tmp_path / "ckpt")
    )
    checkpoint = milepost.Checkpoint(model=model)
    plan = checkpoint.restore(prefix, only=["model/layers"])
    assert plan.is_exact
    assert plan.count("exact") == 10
    assert same_weights(model, saved)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own checkpoints")
def test_from_a_tensorflow_checkpoint_of_the_model_alone(tmp_path):
    import tensorflow as tf

    saved, model = network(), network()
    prefix = tf.train.Checkpoint(saved).save(str(tmp_path / "ckpt"))
    milepost.Checkpoint(net=model).restore(prefix, only=["net/layers"])
    assert same_weights(model, saved)


@pytest.mark.parametrize("name", ["m.weights.h5", "m.keras", "m.h5"])
@pytest.mark.filterwarnings("ignore:.*HDF5 file.*legacy:UserWarning")
def test_from_files_of_keras(tmp_path, name):
    saved, model = network(train=True), network()
    save = saved.save_weights if name.endswith(".weights.h5") else saved.save
    save(tmp_path / name)
    checkpoint = milepost.Checkpoint(model=model)
    plan = checkpoint.restore(tmp_path / name, only=["model/layers"])
    assert plan.is_exact
    assert same_weights(model, saved)
