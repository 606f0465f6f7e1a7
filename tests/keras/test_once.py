"""What a save and a load do once, and what they leave alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import keras
from milepost import Checkpoint, errors, load_model, reading, save_model
from tests.model.test_model_file import rewrite

from .conftest import X, make_model, train, values

CALLS: list[str] = []


@keras.saving.register_keras_serializable("once")
class Counted(keras.layers.Dense):
    def compute_output_spec(self, *arguments: Any, **named: Any) -> Any:
        CALLS.append(self.name)
        return super().compute_output_spec(*arguments, **named)


def stack(*before: Any) -> keras.Model:
    return keras.Sequential([*before, *(Counted(4, name=f"layer{i}") for i in range(5))])


def nested() -> keras.Model:
    inputs = keras.Input((5,))
    return keras.Model(inputs, stack(keras.Input((4,)))(stack(keras.Input((5,)))(inputs)))


def late() -> keras.Model:
    model = stack()
    model(X)
    return model


@pytest.mark.parametrize("make", [lambda: stack(keras.Input((5,))), nested, late])
def test_a_sequential_is_built_once(tmp_path: Path, make: Any):
    CALLS.clear()
    model = make()
    once = len(CALLS)
    save_model(model, tmp_path / "model")
    CALLS.clear()
    loaded = load_model(tmp_path / "model")
    assert 0 < len(CALLS) <= once
    assert type(loaded) is type(model)
    # JSON, in which a shape that came out of a file is the tuple that it was.
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]
    predicted, expected = (keras.ops.convert_to_numpy(one(X)) for one in (loaded, model))
    np.testing.assert_array_equal(predicted, expected)


@pytest.mark.parametrize("name", ["Sequential", "Other"])
def test_no_file_can_name_what_builds_it(tmp_path: Path, name: str):
    save_model(stack(keras.Input((5,))), tmp_path / "model")

    def change(body: dict[str, Any]) -> None:
        node = body["structure"]["config"]
        node |= {
            "class_name": name,
            "module": "elsewhere",
            "registered_name": "milepost>Sequential",
        }

    rewrite(tmp_path / "model", change)
    with pytest.raises(errors.UnknownClassError, match="milepost>Sequential"):
        load_model(tmp_path / "model")


def test_every_byte_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(200)])
    save_model(model, tmp_path / "model")
    read: list[int] = []
    fetch = reading.fetch

    def counted(files: Any, parts: Any) -> None:
        found = list(parts)
        read.extend(part.chunk.nbytes for part in found)
        fetch(files, found)

    monkeypatch.setattr(reading, "fetch", counted)
    loaded = load_model(tmp_path / "model")
    assert values(loaded) == values(model)
    assert sum(read) == 4 * (100 * 200 + 200)


def test_damage_is_told_of_without_advice_on_live_objects(tmp_path: Path):
    model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(200)])
    save_model(model, tmp_path / "model")
    data = np.memmap(tmp_path / "model", np.uint8, "r+")
    data[-1000] ^= 1
    with pytest.raises(errors.DamagedError, match="layers/dense/kernel") as caught:
        load_model(tmp_path / "model")
    assert not getattr(caught.value, "__notes__", [])


def test_the_program_s_random_numbers_go_on(tmp_path: Path):
    """Those of a seeded operation too, whose position lies in TensorFlow's kernel."""
    tensorflow = pytest.importorskip("tensorflow")

    def draw() -> float:
        return float(tensorflow.random.uniform([], seed=7))

    model = make_model()
    tensorflow.random.set_seed(1)
    expected = [draw() for _ in range(3)]
    tensorflow.random.set_seed(1)
    drawn = [draw()]
    save_model(model, tmp_path / "model")
    drawn.append(draw())
    load_model(tmp_path / "model")
    assert [*drawn, draw()] == expected


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="only PyTorch counts changes")
def test_pytorch_is_told_of_values_that_were_read_into_its_memory(tmp_path: Path):
    model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(200)])
    Checkpoint(model=model).save(tmp_path)
    expected, kernel = values(model), model.layers[0].kernel
    kernel.assign(np.zeros((100, 200), "float32"))
    before, address = kernel.value._version, kernel.value.data_ptr()
    Checkpoint(model=model).restore(tmp_path)
    assert values(model) == expected
    assert kernel.value.data_ptr() == address
    assert kernel.value._version > before


def test_large_counters_are_restored_as_what_they_are(tmp_path: Path):
    """They are int64 in a file, whatever they are here, and so never read in place."""
    layer = keras.layers.Layer()
    layer.counts = layer.add_weight(
        shape=(5000,), dtype="int32", initializer="zeros", trainable=False, name="counts"
    )
    layer.counts.assign(np.arange(5000, dtype="int32"))
    Checkpoint(layer=layer).save(tmp_path)
    layer.counts.assign(np.zeros(5000, "int32"))
    Checkpoint(layer=layer).restore(tmp_path)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.counts), np.arange(5000))


def test_a_loaded_model_trains_as_the_saved_one(tmp_path: Path):
    model = make_model()
    train(model, 2)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    for one in (model, loaded):
        keras.utils.set_random_seed(5)
        train(one, 2)
    assert values(loaded) == values(model)
