"""What becomes of layers after they are made: frozen, quantised, given LoRA, swapped."""

from __future__ import annotations

import json

import numpy as np
import pytest

import keras
from milepost import errors, load_model, save_model
from tests.coverage.keras_layers import IMAGE, SIMPLE, one

from .conftest import X, make_model, predictions, train, values


class Block(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.first = keras.layers.Dense(4)
        self.second = keras.layers.Dense(4)

    def build(self, shape):
        self.first.build(shape)
        self.second.build((None, 4))

    def call(self, x):
        return self.second(self.first(x))


def block() -> Block:
    model = Block()
    model(X)
    return model


def again(model, path, **options):
    save_model(model, path)
    return load_model(path, **options)


def test_a_layer_inside_of_a_class_of_the_users_stays_frozen(tmp_path):
    model = block()
    model.second.trainable = False
    loaded = again(model, tmp_path / "model", custom_objects={"Block": Block})
    assert [loaded.trainable, loaded.first.trainable, loaded.second.trainable] == [1, 1, 0]
    assert len(loaded.trainable_variables) == 2


def test_a_layer_inside_of_a_class_of_the_users_stays_quantised(tmp_path):
    model = block()
    model.quantize("int8")
    loaded = again(model, tmp_path / "model", custom_objects={"Block": Block})
    assert loaded.first.quantization_mode == "int8"
    assert predictions(loaded) == predictions(model)


@pytest.mark.parametrize("frozen", [False, True])
def test_lora_keeps_its_alpha(tmp_path, frozen):
    """Keras's own build makes it the rank."""
    model = make_model()
    layer = model.layers[0]
    layer.enable_lora(2, lora_alpha=7)
    model.compile("adam", "mse")
    train(model, 2)
    layer.trainable = not frozen
    loaded = again(model, tmp_path / "model")
    assert (loaded.layers[0].lora_rank, loaded.layers[0].lora_alpha) == (2, 7)
    assert predictions(loaded) == predictions(model)
    assert values(loaded) == values(model)


def test_freezing_all_after_training_keeps_every_slot(tmp_path):
    model = make_model()
    train(model, 2)
    model.trainable = False
    loaded = again(model, tmp_path / "model")
    assert values(loaded) == values(model)
    assert loaded.trainable_variables == []
    assert loaded.optimizer.variables[2].shape == (5, 4)


def test_two_layers_of_one_shape_that_swap_places(tmp_path):
    first, second = (keras.layers.Dense(5, name=name) for name in ("first", "second"))
    model = keras.Sequential([keras.Input((5,)), second, first])
    loaded = again(model, tmp_path / "model")
    assert [layer.name for layer in loaded.layers] == ["second", "first"]
    assert predictions(loaded) == predictions(model)


def test_a_prediction_for_the_example_changes_no_state(tmp_path):
    model = keras.Sequential(
        [keras.Input(batch_shape=(2, 3, 5)), keras.layers.GRU(4, stateful=True)]
    )
    x = X[:6].reshape(2, 3, 5)
    model(x)
    before = [*values(model), keras.ops.convert_to_numpy(model.layers[0].states[0]).tobytes()]
    save_model(model, tmp_path / "model", example=x)
    loaded = load_model(tmp_path / "model", replay=True)
    for one_of in (model, loaded):
        state = keras.ops.convert_to_numpy(one_of.layers[0].states[0]).tobytes()
        assert [*values(one_of), state] == before


@pytest.mark.parametrize("name", ["RandomShear", "RandomRotation", "RandomBrightness"])
def test_random_layers_go_on_with_the_same_numbers(tmp_path, name):
    model, x = one(name, IMAGE, SIMPLE[IMAGE][name])()
    loaded = again(model, tmp_path / "model")
    configs = [json.dumps(m.layers[-1].get_config()) for m in (model, loaded)]
    assert configs[0] == configs[1]
    images = [
        keras.ops.convert_to_numpy(keras.tree.flatten(m(x, training=True))[0])
        for m in (model, loaded)
    ]
    assert np.array_equal(*images)


def test_texts_go_in_as_lists(tmp_path):
    layer = keras.layers.StringLookup(vocabulary=["tea", "milk"])
    layer.build(None)
    save_model(layer, tmp_path / "model", example=["milk", "coffee"])
    loaded = load_model(tmp_path / "model", replay=True)
    assert loaded.get_vocabulary() == ["[UNK]", "tea", "milk"]


@pytest.mark.parametrize("replay", [False, True])
def test_a_prediction_for_the_example_draws_no_random_numbers(tmp_path, replay):
    """A recurrent layer's dropout takes a seed even when it is not training."""
    layer = keras.layers.GRU(4, dropout=0.2, recurrent_dropout=0.2)
    model = keras.Sequential([keras.Input((3, 5)), layer])
    x = X[:6].reshape(2, 3, 5)
    before = values(model)
    save_model(model, tmp_path / "model", example=x)
    assert values(model) == before
    assert values(load_model(tmp_path / "model", replay=replay)) == before


def test_a_matrix_lies_in_memory_as_it_did(tmp_path):
    """Else PyTorch multiplies it with other instructions, and its last digits differ."""
    model = keras.Sequential([keras.Input((3, 5)), keras.layers.SimpleRNN(4)])
    loaded = again(model, tmp_path / "model")
    x = X[:6].reshape(2, 3, 5)
    assert predictions(loaded, x) == predictions(model, x)
    if keras.backend.backend() == "torch":
        for one_of in (model, loaded):
            assert one_of.layers[0].cell.recurrent_kernel.value.stride() == (1, 4)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
def test_quantising_after_training_leaves_slots_behind(tmp_path):
    model = make_model()
    train(model, 2)
    model.quantize("int8")
    report = save_model(model, tmp_path / "model", example=X)
    assert any("for variables that it no longer has" in lost for lost in report.lost)
    assert predictions(load_model(tmp_path / "model", replay=True)) == predictions(model)


class Private(keras.layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self._factor = 1.0

    def call(self, x):
        return x * self._factor


def test_a_private_attribute_that_is_lost_is_told(tmp_path):
    model = keras.Sequential([keras.Input((5,)), Private(name="private")])
    assert save_model(model, tmp_path / "model").lost == ()
    model.layers[0]._factor = 2.0
    (lost,) = save_model(model, tmp_path / "model").lost
    assert "_factor" in lost


def test_classes_of_keras_outside_of_the_list_are_refused_when_they_are_saved(tmp_path):
    layer = keras.layers.Wrapper(keras.layers.Dense(2), name="odd")
    layer.build((None, 5))
    with pytest.raises(errors.UnsupportedObjectError, match="odd is a keras.*Wrapper, which"):
        save_model(layer, tmp_path / "model")
