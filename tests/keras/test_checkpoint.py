"""Checkpoints of Keras models, on the backend that KERAS_BACKEND names."""

from __future__ import annotations

import numpy as np
import pytest

import keras
import milepost
from milepost import Checkpoint, errors
from milepost.testing import FrameworkTests

from .conftest import X, Y, make_model, predictions, train, values


class TestModel(FrameworkTests):
    def make(self):
        model = make_model()
        train(model)  # so that the metrics have variables
        return model

    def change(self, value):
        train(value)
        return value


class TestModelWithoutCompile(FrameworkTests):
    def make(self):
        return make_model(compiled=False)

    def change(self, value):
        value.set_weights([w + 1 for w in value.get_weights()])
        return value


class TestOptimizer(FrameworkTests):
    def make(self):
        optimizer = keras.optimizers.AdamW(0.1)
        optimizer.build([keras.Variable([1.0, 2.0]), keras.Variable([[3.0]])])
        return optimizer

    def change(self, value):
        value.apply([keras.ops.ones(2), keras.ops.ones((1, 1))])
        return value


class TestVariable(FrameworkTests):
    def make(self):
        return keras.Variable([1.0, 2.0], name="v")

    def change(self, value):
        value.assign(value + 1)
        return value


class TestMetric(FrameworkTests):
    def make(self):
        return keras.metrics.MeanSquaredError()

    def change(self, value):
        value.update_state([1.0, 2.0], [0.5, 0.5])
        return value


class TestSeedGenerator(FrameworkTests):
    def make(self):
        return keras.random.SeedGenerator(5)

    def change(self, value):
        keras.random.normal((2,), seed=value)
        return value


def test_names_read_like_the_model(tmp_path):
    model = make_model()
    train(model)
    Checkpoint(model=model).save(tmp_path)
    names = list(milepost.open(tmp_path).latest)
    assert names[:3] == [
        "model/layers/dense/kernel",
        "model/layers/dense/bias",
        "model/layers/batch_normalization/gamma",
    ]
    for name in (
        "model/layers/batch_normalization/moving_mean",
        "model/layers/dropout/seed_generator",
        "model/layers/dense_1/kernel",
        "model/optimizer/iteration",
        "model/optimizer/learning_rate",
        "model/optimizer/layers/dense_1/kernel/momentum",
        "model/optimizer/layers/dense_1/kernel/velocity",
        "model/metrics/loss/total",
        "model/metrics/mae/total",
    ):
        assert name in names, names


def test_a_model_built_twice_has_the_same_names(tmp_path):
    first = make_model()
    train(first)
    Checkpoint(model=first).save(tmp_path)
    second = make_model()
    assert first.layers[0].name != second.layers[0].name  # dense, and dense_2
    assert Checkpoint(model=second).restore(tmp_path).is_exact


def test_everything_goes_on_to_the_last_bit(tmp_path):
    model = make_model()
    train(model, 2)
    checkpoint = Checkpoint(model=model, random=milepost.RandomState())
    checkpoint.save(tmp_path)
    train(model, 3)
    expected = values(model)
    other = make_model()
    Checkpoint(model=other, random=milepost.RandomState()).restore(tmp_path)
    train(other, 3)
    assert values(other) == expected


@pytest.mark.parametrize("restore_first", [True, False])
def test_a_model_that_is_not_built_yet(tmp_path, restore_first):
    def make():
        model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(3)])
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        return model

    model = make()
    with pytest.raises(errors.UnsupportedObjectError, match="model is not built yet"):
        Checkpoint(model=model).save(tmp_path)
    train(model, 2)
    Checkpoint(model=model).save(tmp_path)
    other = make()
    assert not other.built
    assert Checkpoint(model=other).restore(tmp_path).is_exact
    assert values(other) == values(model)
    train(model)
    train(other)
    assert values(other) == values(model)


class Subclassed(keras.Model):
    def __init__(self, width=4):
        super().__init__()
        self.encoder = keras.layers.Dense(width)
        self.blocks = [keras.layers.Dense(width) for _ in range(2)]
        self.parts = {"head": keras.layers.Dense(3)}
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x):
        x = self.encoder(x)
        for block in self.blocks:
            x = block(x)
        return self.parts["head"](x) * self.scale


def test_a_subclassed_model_has_the_names_of_its_attributes(tmp_path):
    model = Subclassed()
    model(X)
    Checkpoint(model=model).save(tmp_path)
    assert set(milepost.open(tmp_path).latest) == {
        "model/layers/scale",
        "model/layers/seeds",
        *(
            f"model/layers/{layer}/{variable}"
            for layer in ("encoder", "blocks/0", "blocks/1", "parts/head")
            for variable in ("kernel", "bias")
        ),
    }
    other = Subclassed()
    assert Checkpoint(model=other).restore(tmp_path).is_exact  # built on the way
    assert predictions(other) == predictions(model)


def test_two_layers_that_swap_places_are_not_swapped(tmp_path):
    def make(first, second):
        model = keras.Sequential([keras.Input((4,))])
        layers = {name: keras.layers.Dense(4, name=name) for name in ("a", "b")}
        model.add(layers[first])
        model.add(layers[second])
        return model

    model = make("a", "b")
    Checkpoint(model=model).save(tmp_path)
    other = make("b", "a")
    Checkpoint(model=other).restore(tmp_path)
    for name in ("a", "b"):
        assert np.array_equal(
            other.get_layer(name).get_weights()[0], model.get_layer(name).get_weights()[0]
        )


def test_layers_with_automatic_names_keep_the_order_in_which_they_were_made(tmp_path):
    def make():
        first, second = keras.layers.Dense(4), keras.layers.Dense(4)
        return keras.Sequential([keras.Input((4,)), second, first]), first

    (model, first), (other, other_first) = make(), make()
    Checkpoint(model=model).save(tmp_path)
    Checkpoint(model=other).restore(tmp_path)
    assert np.array_equal(first.get_weights()[0], other_first.get_weights()[0])


def test_shared_and_nested_layers(tmp_path):
    def make():
        keras.utils.set_random_seed(3)
        shared = keras.layers.Dense(4, name="shared")
        inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)], name="inner")
        a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
        return keras.Model([a, b], inner(shared(a) + shared(b)))

    model = make()
    Checkpoint(model=model).save(tmp_path)
    assert set(milepost.open(tmp_path).latest) == {
        "model/layers/shared/kernel",
        "model/layers/shared/bias",
        "model/layers/inner/dense/kernel",
        "model/layers/inner/dense/bias",
    }
    assert Checkpoint(model=make()).restore(tmp_path).is_exact


def test_freezing_a_layer_loses_no_optimizer_state(tmp_path):
    model = make_model()
    train(model, 2)
    model.layers[0].trainable = False
    Checkpoint(model=model).save(tmp_path)
    other = make_model()
    other.layers[0].trainable = False
    plan = Checkpoint(model=other).restore(tmp_path)
    assert plan.is_exact
    assert plan.count("unexpected") == 0
    names = [entry.name for entry in plan.entries]
    assert "model/optimizer/layers/dense/kernel/momentum" in names
    assert [v.shape for v in other.optimizer.variables] == [
        v.shape for v in model.optimizer.variables
    ]


OPTIMIZERS = ["Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lamb"]
OPTIMIZERS += ["Lion", "Muon", "Nadam", "RMSprop", "SGD"]
# What an optimizer keeps is the same on every backend: all of them on one are enough most days.
_EVERYWHERE = ("Adafactor", "Adam", "Muon", "SGD")


def _swept(name: str) -> bool:
    return keras.backend.backend() != "tensorflow" and name not in _EVERYWHERE


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if _swept(name) else ()) for name in OPTIMIZERS],
)
def test_every_optimizer_goes_on_to_the_last_bit(tmp_path, name):
    def make():
        model = make_model(compiled=False)
        rate = keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.9)
        options = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
        model.compile(getattr(keras.optimizers, name)(rate, **options), "mse")
        return model

    model, other = make(), make()
    train(model, 2)
    Checkpoint(model=model, random=milepost.RandomState()).save(tmp_path)
    plan = Checkpoint(model=other, random=milepost.RandomState()).restore(tmp_path)
    assert plan.is_exact
    after = Checkpoint(model=model, random=milepost.RandomState())
    train(other, 2)
    after.restore(tmp_path)
    train(model, 2)
    assert values(other) == values(model)


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()),
        lambda: keras.optimizers.Adam(use_ema=True, ema_overwrite_frequency=2),
        lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
    ],
)
def test_optimizers_that_hold_more(tmp_path, make):
    def compiled():
        model = make_model(compiled=False)
        model.compile(make(), "mse")
        return model

    model, other = compiled(), compiled()
    train(model, 3)
    Checkpoint(model=model).save(tmp_path)
    assert Checkpoint(model=other).restore(tmp_path).is_exact
    assert values(other) == values(model)


def test_an_optimizer_beside_its_model(tmp_path):
    def make():
        model = make_model(compiled=False)
        optimizer = keras.optimizers.Adam()
        return model, optimizer

    model, optimizer = make()
    optimizer.build(model.trainable_variables)
    optimizer.apply([keras.ops.ones(v.shape, v.dtype) for v in model.trainable_variables])
    Checkpoint(model=model, optimizer=optimizer).save(tmp_path)
    assert "optimizer/model/layers/dense/kernel/momentum" in milepost.open(tmp_path).latest
    other, fresh = make()
    assert Checkpoint(model=other, optimizer=fresh).restore(tmp_path).is_exact
    assert fresh.built
    for a, b in zip(optimizer.variables, fresh.variables, strict=True):
        assert (keras.ops.convert_to_numpy(a) == keras.ops.convert_to_numpy(b)).all()


def test_a_model_whose_shapes_changed_is_refused_and_untouched(tmp_path):
    Checkpoint(model=make_model(compiled=False)).save(tmp_path)
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(6), keras.layers.Dense(3)])
    before = values(other)
    with pytest.raises(errors.RestoreRefusedError) as caught:
        Checkpoint(model=other).restore(tmp_path)
    assert "model/layers/dense/kernel: expected float32[5, 6], found float32[5, 4]" in str(
        caught.value
    )
    assert values(other) == before


def test_a_checkpoint_is_saved_in_the_midst_of_fit(tmp_path):
    """On JAX the variables of a model lie elsewhere then."""
    model = make_model()
    seen = []

    class Save(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                Checkpoint(model=self._model).save(tmp_path)
                seen.append(self.model.get_weights()[0])

    model.fit(X, Y, batch_size=4, verbose=0, callbacks=[Save()])
    assert np.array_equal(milepost.open(tmp_path).latest["model/layers/dense/kernel"][...], seen[0])
    assert not np.array_equal(model.get_weights()[0], seen[0])


def test_mixed_precision_and_other_dtypes(tmp_path):
    def make(policy):
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, dtype=policy)])

    model = make("bfloat16")
    Checkpoint(model=model).save(tmp_path)
    assert milepost.open(tmp_path).latest.spec("model/layers/dense/kernel").dtype == "bfloat16"
    assert Checkpoint(model=make("bfloat16")).restore(tmp_path).is_exact
    with pytest.raises(errors.RestoreRefusedError, match="cast"):
        Checkpoint(model=make("float32")).restore(tmp_path)
    Checkpoint(model=make("mixed_float16")).save(tmp_path)
    assert milepost.open(tmp_path).latest.spec("model/layers/dense/kernel").dtype == "float32"


def test_normalization_uses_its_restored_statistics(tmp_path):
    def make():
        return keras.Sequential([keras.Input((5,)), keras.layers.Normalization()])

    model = make()
    model.layers[0].adapt(X * 3 + 1)
    Checkpoint(model=model).save(tmp_path)
    other = make()
    Checkpoint(model=other).restore(tmp_path)
    assert predictions(other) == predictions(model)


def make_float8():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    model.layers[0].quantize("float8")
    model.compile("adam", "mse", jit_compile=False)
    return model


def test_a_float8_model_trains_on(tmp_path):
    model = make_float8()
    train(model, 2)
    Checkpoint(model=model).save(tmp_path / "checkpoint")
    milepost.save_model(model, tmp_path / "model")
    restored, loaded = make_float8(), milepost.load_model(tmp_path / "model")
    Checkpoint(model=restored).restore(tmp_path / "checkpoint")
    for trained in (model, restored, loaded):
        train(trained, 2)
    # A quantised layer that is loaded makes its variables in another order.
    assert sorted(values(restored)) == sorted(values(loaded)) == sorted(values(model))


def test_the_states_of_a_stateful_rnn(tmp_path):
    def make():
        lstm = keras.layers.LSTM(3, stateful=True)
        return keras.Sequential([keras.Input(batch_shape=(2, 4, 5)), lstm])

    x = np.ones((2, 4, 5), "float32")
    model = make()
    model(x)
    Checkpoint(model=model).save(tmp_path / "checkpoint")
    milepost.save_model(model, tmp_path / "model")
    assert "model/layers/lstm/states/1" in milepost.open(tmp_path / "checkpoint").latest
    restored, loaded = make(), milepost.load_model(tmp_path / "model")
    Checkpoint(model=restored).restore(tmp_path / "checkpoint")
    expected = predictions(model, x)
    assert predictions(restored, x) == expected
    assert predictions(loaded, x) == expected
