"""Whole Keras models, on the backend that KERAS_BACKEND names."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import keras
import milepost
from milepost import errors, load_model, save_model

from .conftest import X, Y, make_model, predictions, train, values


def round_trip(model, path: Path, **options) -> keras.Model:
    save_model(model, path)
    loaded = load_model(path, **options)
    assert loaded is not model
    return loaded


def test_a_compiled_model_comes_back_whole(tmp_path):
    model = make_model()
    train(model, 3)
    path = tmp_path / "path-without-extension"
    report = save_model(model, path, metadata={"note": "third"})
    assert (report.path, report.framework, report.needs) == (str(path), "keras", ())
    loaded = load_model(path)
    assert predictions(loaded) == predictions(model)
    assert values(loaded) == values(model)
    assert loaded.name == model.name
    assert loaded.get_compile_config()["loss"] == "mse"
    assert milepost.open(path).metadata == {"note": "third"}


def test_it_trains_on_from_where_it_was(tmp_path):
    model = make_model()
    train(model, 2)
    loaded = round_trip(model, tmp_path / "model")
    for trained in (model, loaded):
        keras.utils.set_random_seed(5)
        train(trained, 3)
    assert values(loaded) == values(model)


def test_loading_draws_no_random_numbers(tmp_path):
    import random

    save_model(make_model(), tmp_path / "model")
    state = (random.getstate(), np.random.get_state()[1].tolist())
    load_model(tmp_path / "model")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state


def test_trainable_flags(tmp_path):
    model = make_model()
    model.layers[0].trainable = False
    loaded = round_trip(model, tmp_path / "model")
    assert [layer.trainable for layer in loaded.layers] == [
        layer.trainable for layer in model.layers
    ]
    assert len(loaded.trainable_variables) == len(model.trainable_variables)


def test_freezing_after_training_loses_no_optimizer_state(tmp_path):
    model = make_model()
    train(model, 2)
    model.layers[0].trainable = False
    loaded = round_trip(model, tmp_path / "model")
    assert values(loaded) == values(model)
    assert any(np.any(keras.ops.convert_to_numpy(v)) for v in loaded.optimizer.variables[2:4])


def test_a_functional_model_with_several_inputs_and_operations(tmp_path):
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    shared = keras.layers.Dense(4, activation="tanh", kernel_regularizer="l2")
    x = keras.ops.concatenate([shared(a), shared(b) * 2 + 1], axis=-1)
    outputs = {"sum": keras.layers.Dense(2)(x), "raw": keras.ops.relu(x)}
    model = keras.Model({"a": a, "b": b}, outputs)
    loaded = round_trip(model, tmp_path / "model")
    inputs = {"a": X[:, :4], "b": X[:, 1:]}
    found, expected = loaded(inputs), model(inputs)
    assert found.keys() == expected.keys()
    for key in expected:
        assert (
            keras.ops.convert_to_numpy(found[key]) == keras.ops.convert_to_numpy(expected[key])
        ).all()


@keras.saving.register_keras_serializable(package="tests")
class Registered(keras.Model):
    def __init__(self, width, **options):
        super().__init__(**options)
        self.width = width
        self.dense = keras.layers.Dense(width)
        self.head = keras.layers.Dense(3)

    def call(self, x):
        return self.head(keras.ops.tanh(self.dense(x)))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def test_a_registered_subclass(tmp_path):
    model = Registered(6)
    model(X)
    model.compile(keras.optimizers.Adam(), "mse")
    train(model, 2)
    report = save_model(model, tmp_path / "model")
    assert report.needs == ("tests>Registered",)
    loaded = load_model(tmp_path / "model")
    assert isinstance(loaded, Registered)
    assert values(loaded) == values(model)


class Scale(keras.layers.Layer):
    def __init__(self, factor, **options):
        super().__init__(**options)
        self.factor = factor

    def call(self, x):
        return x * self.factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def own_loss(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred))


def test_classes_and_functions_that_are_passed(tmp_path):
    model = keras.Sequential([keras.Input((5,)), Scale(3.0), keras.layers.Dense(3)])
    model.compile("sgd", loss=own_loss)
    report = save_model(model, tmp_path / "model")
    assert report.needs == ("Scale", "own_loss")
    custom = {"Scale": Scale, "own_loss": own_loss}
    loaded = load_model(tmp_path / "model", custom_objects=custom)
    assert predictions(loaded) == predictions(model)
    with pytest.raises(errors.UnknownClassError, match=r"scale.* needs 'Scale'.*custom_objects="):
        load_model(tmp_path / "model")
    with pytest.raises(errors.UnknownClassError, match="own_loss"):
        load_model(tmp_path / "model", custom_objects={"Scale": Scale})


def test_a_lambda_is_refused_when_it_is_saved(tmp_path):
    path = tmp_path / "model"
    path.write_text("the model before")
    for layer in (
        keras.layers.Lambda(lambda x: x * 2, name="double"),
        keras.layers.Dense(3, activation=lambda x: x * 2, name="double"),
    ):
        model = keras.Sequential([keras.Input((5,)), layer])
        with pytest.raises(
            errors.UntrustedError, match="double.* is a lambda: code is neither saved"
        ):
            save_model(model, path)
    assert path.read_text() == "the model before"


def test_a_model_that_is_not_built(tmp_path):
    with pytest.raises(errors.UnsupportedObjectError, match="not built yet"):
        save_model(keras.Sequential([keras.layers.Dense(2)]), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_dtype_policies(tmp_path):
    for policy in ("mixed_float16", "bfloat16", "float64"):
        if policy == "float64" and keras.backend.backend() == "jax":
            continue  # which has no 64 bits by default
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, dtype=policy)])
        loaded = round_trip(model, tmp_path / policy)
        assert loaded.layers[0].dtype_policy.name == policy
        assert loaded.layers[0].kernel.dtype == model.layers[0].kernel.dtype
        assert predictions(loaded) == predictions(model)


def test_learning_rate_schedules_and_metric_objects(tmp_path):
    model = make_model(compiled=False)
    rate = keras.optimizers.schedules.CosineDecay(0.1, 100, warmup_target=0.2, warmup_steps=5)
    model.compile(
        keras.optimizers.AdamW(rate, clipnorm=1.0),
        keras.losses.Huber(0.5),
        metrics=[keras.metrics.MeanAbsoluteError(name="far"), "mse"],
    )
    train(model, 3)
    loaded = round_trip(model, tmp_path / "model")
    assert isinstance(loaded.optimizer._learning_rate, keras.optimizers.schedules.CosineDecay)
    assert loaded.optimizer.clipnorm == 1.0
    assert values(loaded) == values(model)
    for trained in (model, loaded):
        keras.utils.set_random_seed(5)
        train(trained)
    assert values(loaded) == values(model)


@pytest.mark.parametrize(
    ("loss", "attribute"),
    [
        (lambda: keras.losses.Huber(0.5), {"delta": 0.5}),
        (lambda: keras.losses.CosineSimilarity(axis=0), {"axis": 0}),
        (lambda: keras.losses.Tversky(alpha=0.3), {"alpha": 0.3, "beta": 0.5}),
        (lambda: keras.losses.MeanSquaredError(dtype="bfloat16"), {"_dtype": "bfloat16"}),
    ],
)
def test_arguments_that_get_config_forgets(tmp_path, loss, attribute):
    model = make_model(compiled=False)
    model.compile("sgd", loss())
    loaded = round_trip(model, tmp_path / "model")
    kept = {**vars(loaded.loss), **loaded.loss._fn_kwargs}
    assert {name: kept[name] for name in attribute} == attribute


def test_two_models_of_one_process_do_not_mix(tmp_path):
    first, second = make_model(), make_model()
    train(second, 2)
    save_model(first, tmp_path / "first")
    save_model(second, tmp_path / "second")
    assert values(load_model(tmp_path / "second")) == values(second)
    assert values(load_model(tmp_path / "first")) == values(first)
    names = [list(milepost.open(tmp_path / n)) for n in ("first", "second")]
    assert [n for n in names[0] if n.startswith("layers")] == [
        n for n in names[1] if n.startswith("layers")
    ]


def test_it_is_a_plain_safetensors_file(tmp_path):
    model = make_model()
    save_model(model, tmp_path / "model")
    with safe_open(tmp_path / "model", "numpy") as file:
        kernel = file.get_tensor("layers/dense/kernel")
        assert np.array_equal(kernel, model.layers[0].get_weights()[0])
        assert set(file.metadata()) == {"milepost"}


def test_saving_the_same_model_twice_gives_the_same_bytes(tmp_path):
    model = make_model()
    save_model(model, tmp_path / "a")
    save_model(model, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_file_has_the_mode_of_any_other_file(tmp_path):
    save_model(make_model(), tmp_path / "model")
    (tmp_path / "other").touch()
    modes = [stat.S_IMODE(os.stat(tmp_path / n).st_mode) for n in ("model", "other")]
    assert modes[0] & ~0o111 == modes[1]


def lookup_model(layer) -> keras.Model:
    return keras.Sequential([keras.Input((1,), dtype="string"), layer])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="strings are TensorFlow's")
class TestVocabularies:
    words = np.array(["red", "green\nish", "blue", "red", "☃", "x\u2028y"])[:, None]

    @pytest.mark.parametrize("mode", ["int", "multi_hot", "count", "tf_idf"])
    def test_string_lookup(self, tmp_path, mode):
        layer = keras.layers.StringLookup(output_mode=mode)
        layer.adapt(self.words)
        model = lookup_model(layer)
        loaded = round_trip(model, tmp_path / "model")
        words = np.concatenate([self.words, [["unknown"]]])
        assert np.array_equal(loaded(words), model(words))
        assert loaded.layers[0].get_vocabulary() == layer.get_vocabulary()

    def test_a_vocabulary_that_was_given(self, tmp_path):
        model = lookup_model(keras.layers.StringLookup(vocabulary=["a", "b"]))
        loaded = round_trip(model, tmp_path / "model")
        assert loaded(np.array([["b"], ["z"]])).numpy().tolist() == [[2], [0]]

    def test_a_vocabulary_from_a_file_is_kept_by_content(self, tmp_path):
        (tmp_path / "words.txt").write_text("a\nb\nc\n")
        layer = keras.layers.StringLookup(vocabulary=str(tmp_path / "words.txt"))
        model = lookup_model(layer)
        save_model(model, tmp_path / "model")
        (tmp_path / "words.txt").unlink()
        loaded = load_model(tmp_path / "model")
        assert loaded(np.array([["c"]])).numpy().tolist() == [[3]]
        assert b"words.txt" not in (tmp_path / "model").read_bytes()

    def test_integer_lookup(self, tmp_path):
        layer = keras.layers.IntegerLookup()
        layer.adapt(np.array([[5], [7], [5]]))
        model = keras.Sequential([keras.Input((1,), dtype="int64"), layer])
        loaded = round_trip(model, tmp_path / "model")
        assert loaded(np.array([[5], [7], [9]])).numpy().tolist() == [[1], [2], [0]]

    def test_text_vectorization(self, tmp_path):
        layer = keras.layers.TextVectorization(output_sequence_length=4)
        layer.adapt(["the cat sat", "the dog"])
        model = lookup_model(layer)
        loaded = round_trip(model, tmp_path / "model")
        texts = np.array([["the dog sat"], ["a bird"]])
        assert np.array_equal(loaded(texts), model(texts))
        names = [n for n in milepost.open(tmp_path / "model") if n.startswith("assets/")]
        assert len(names) == 1


def test_normalization_and_discretization(tmp_path):
    normalization = keras.layers.Normalization()
    normalization.adapt(X * 4 + 2)
    model = keras.Sequential(
        [keras.Input((5,)), normalization, keras.layers.Discretization([-1.0, 0.0, 1.0])]
    )
    loaded = round_trip(model, tmp_path / "model")
    assert predictions(loaded) == predictions(model)


def test_a_layer_with_assets_of_its_own(tmp_path):
    class Named(keras.layers.Layer):
        labels = ()

        def call(self, x):
            return x

        def save_assets(self, folder):
            with open(os.path.join(folder, "labels.txt"), "w") as file:
                file.write("|".join(self.labels))

        def load_assets(self, folder):
            with open(os.path.join(folder, "labels.txt")) as file:
                self.labels = file.read().split("|")

    layer = Named()
    layer.labels = ["cat", "dog"]
    model = keras.Sequential([keras.Input((5,)), layer])
    loaded = round_trip(model, tmp_path / "model", custom_objects={"Named": Named})
    assert loaded.layers[0].labels == ["cat", "dog"]


def test_evaluate_and_fit_after_loading(tmp_path):
    model = make_model()
    model.fit(X, Y, epochs=2, verbose=0)
    loaded = round_trip(model, tmp_path / "model")
    assert loaded.evaluate(X, Y, verbose=0) == model.evaluate(X, Y, verbose=0)
    assert len(loaded.fit(X, Y, epochs=2, verbose=0).history["loss"]) == 2


def small_model(optimizer) -> keras.Model:
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    model.compile(optimizer, "mse", jit_compile=False)
    return model


def test_a_schedule_inside_of_a_wrapped_optimizer(tmp_path):
    rate = keras.optimizers.schedules.CosineDecay(0.1, 10)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(rate))
    model = small_model(optimizer)
    train(model, 2)
    loaded = round_trip(model, tmp_path / "model")
    inner = loaded.optimizer.inner_optimizer
    assert isinstance(inner._learning_rate, keras.optimizers.schedules.CosineDecay)
    assert values(loaded) == values(model)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("by", ["var_names", "var_list"])
def test_exclusions_from_weight_decay(tmp_path, by, wrapped):
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.9)
    model = small_model(keras.optimizers.LossScaleOptimizer(optimizer) if wrapped else optimizer)
    dense = model.layers[0]
    optimizer.exclude_from_weight_decay(
        **{by: ["bias"] if by == "var_names" else [dense.bias, keras.Variable(1.0)]}
    )
    dense.bias.assign(np.full(3, 5.0))
    first = round_trip(model, tmp_path / "first")
    second = round_trip(first, tmp_path / "second")
    for trained in (model, first, second):
        train(trained, 2)
    assert values(first) == values(model)
    assert values(second) == values(model)


def shared_layer():
    layer = keras.layers.Dense(5, name="both")
    inner = keras.Input((5,))
    part = keras.Model(inner, layer(inner), name="part")
    outer = keras.Input((5,))
    return keras.Model(outer, keras.layers.Add()([part(outer), layer(outer)]), name="whole")


def shared_encoder():
    inputs = keras.Input((5,))
    encoder = keras.Sequential([inputs, keras.layers.Dense(5)], name="both")
    parts = []
    for name in ("part", "whole/other"):
        inputs = keras.Input((5,))
        outputs = keras.layers.Dense(2)(encoder(inputs))
        parts.append(keras.Model(inputs, outputs, name=name.rpartition("/")[2]))
    outer = keras.Input((5,))
    return keras.Model(outer, [part(outer) for part in parts], name="whole")


def shared_with_a_wrapper():
    layer = keras.layers.Dense(5, name="both")
    x = keras.Input((4, 5))
    part = keras.layers.TimeDistributed(layer, name="part")
    return keras.Model(x, layer(part(x)), name="whole")


@pytest.mark.parametrize("make", [shared_layer, shared_encoder, shared_with_a_wrapper])
def test_a_layer_that_two_models_list_is_refused_when_it_is_saved(tmp_path, make):
    model = make()
    with pytest.raises(
        errors.UnsupportedObjectError, match=r"layer 'both' is part of both whole.* and whole"
    ):
        save_model(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    milepost.Checkpoint(model=model).save(tmp_path / "checkpoint")


def test_a_submodel_and_a_layer_that_are_called_twice(tmp_path):
    layer, inner = keras.layers.Dense(5), keras.Input((5,))
    part = keras.Sequential([inner, keras.layers.Dense(5)])
    x = keras.Input((5,))
    model = keras.Model(x, layer(part(layer(part(x)))))
    assert predictions(round_trip(model, tmp_path / "model")) == predictions(model)


class Forgetful(keras.layers.Layer):
    def __init__(self, width=3, **options):
        super().__init__(**options)
        self.width = width

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.width), name="w")

    def get_config(self):
        return super().get_config()  # which now has no width

    def call(self, x):
        return x @ self.w


class Cell(keras.layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.state_size = 2
        self.inner = keras.layers.Dense(2)  # which nobody builds before the first call

    def call(self, x, states):
        hidden = self.inner(x) + states[0]
        return hidden, [hidden]

    def get_initial_state(self, batch_size=None):
        return [keras.ops.zeros((batch_size, 2))]


@pytest.mark.filterwarnings("ignore:`build")
def test_a_model_that_does_not_come_back_is_refused_when_it_is_saved(tmp_path):
    wide = keras.Sequential([keras.Input((5,)), Forgetful(7)])
    with pytest.raises(
        errors.UnsupportedObjectError,
        match=r"layers/forgetful/w is float32\[5, 3\] and not float32\[5, 7\].*get_config",
    ):
        save_model(wide, tmp_path / "wide")
    late = keras.Sequential([keras.Input((5, 4)), keras.layers.RNN(Cell(), name="late")])
    late(np.ones((2, 5, 4), "float32"))
    with pytest.raises(
        errors.UnsupportedObjectError, match=r"layers/late/cell/.* is missing and not .*get_config"
    ):
        save_model(late, tmp_path / "late")
    assert list(tmp_path.iterdir()) == []


def test_saving_leaves_automatic_names_as_they_were(tmp_path):
    model = make_model()
    expected = int(keras.layers.Dense(1).name.rpartition("_")[2]) + 1
    save_model(model, tmp_path / "model")
    assert keras.layers.Dense(1).name == f"dense_{expected}"
