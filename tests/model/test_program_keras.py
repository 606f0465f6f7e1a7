"""Keras models as portable programs, on whichever backend the tests run."""

from __future__ import annotations

import numpy as np
import pytest

import keras
import milepost
from keras import layers
from milepost import errors

BACKEND = keras.backend.backend()


def two_inputs():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    outputs = [layers.Dense(5, name="five")(a), layers.Concatenate()([a, b])]
    return keras.Model({"b": b, "a": a}, {"z": outputs[0], "y": outputs[1]})


def make(kind):
    keras.utils.set_random_seed(1)
    random = np.random.default_rng(0)
    if kind == "cnn":
        parts = [
            *(keras.Input((8, 8, 1)), layers.Conv2D(40, 3, activation="relu")),
            *(layers.BatchNormalization(), layers.Dropout(0.5), layers.MaxPooling2D()),
            *(layers.Flatten(), layers.Dense(10, activation="softmax")),
        ]
        return keras.Sequential(parts), random.random((1, 8, 8, 1), "f")
    if kind == "recurrent":
        model = keras.Sequential(
            [keras.Input((6,)), layers.Embedding(50, 32), layers.LSTM(4, return_sequences=True)]
        )
        return model, np.arange(12, dtype="int32").reshape(2, 6)
    if kind == "attention":
        inputs = keras.Input((6, 8))
        attention = layers.MultiHeadAttention(2, 4)(inputs, inputs)
        return keras.Model(inputs, layers.LayerNormalization()(attention)), random.random(
            (3, 6, 8), "f"
        )
    if kind == "normalization":
        normalization = layers.Normalization()
        normalization.adapt(random.random((30, 4)))
        model = keras.Sequential([keras.Input((4,)), normalization, layers.Dense(2)])
        return model, random.random((3, 4), "f")
    if kind == "two":
        return two_inputs(), {"a": random.random((2, 4), "f"), "b": random.random((2, 3), "f")}
    model = keras.Sequential([keras.Input((6,)), layers.Dense(100, "relu"), layers.Dense(3)])
    model.compile("adam", "mse")
    model.fit(random.random((8, 6), "f"), random.random((8, 3), "f"), verbose=0)
    return model, random.random((3, 6), "f")


@pytest.mark.parametrize("kind", ["mlp", "cnn", "recurrent", "attention", "normalization", "two"])
def test_a_program_predicts_what_the_model_does(kind, tmp_path):
    model, inputs = make(kind)
    milepost.save_model(model, tmp_path / "model", example=inputs, program=True)
    with milepost.open(tmp_path / "model") as snapshot:
        stored = snapshot.document.program
    assert stored.kind == ("stablehlo" if BACKEND == "jax" else "onnx")
    for variable in model.weights:  # none is in the program a second time
        array = keras.ops.convert_to_numpy(variable.value)
        assert array.nbytes < 100 or array.tobytes() not in stored.data
    assert __file__.encode() not in stored.data
    assert b"site-packages" not in stored.data
    program = milepost.load_program(tmp_path / "model")
    assert program.replay().difference <= 1e-5
    inputs = keras.tree.map_structure(lambda x: np.concatenate([x] * 3), inputs)
    expected = keras.tree.map_structure(keras.ops.convert_to_numpy, model(inputs, training=False))
    found = program(**inputs) if isinstance(inputs, dict) else program(inputs)
    keras.tree.map_structure(
        lambda e, f: np.testing.assert_allclose(f, e, atol=1e-5), expected, found
    )


def test_texts_are_refused(tmp_path):
    if BACKEND != "tensorflow":
        pytest.skip("only TensorFlow has tensors of texts")
    vectors = layers.TextVectorization(max_tokens=5)
    vectors.adapt(["a b c"])
    model = keras.Sequential([keras.Input((1,), dtype="string"), vectors])
    with pytest.raises(errors.UnsupportedObjectError, match="takes arrays"):
        milepost.save_model(model, tmp_path / "m", example=[["a b"], ["c"]], program=True)
