"""Whole models out of Keras's own files, beside what Keras itself loads from them."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest

import keras
import milepost
from milepost.errors import (
    MilepostError,
    RestoreRefusedError,
    UnknownClassError,
    UnknownFormatError,
    UntrustedError,
    UsageError,
)
from milepost.testing.format import same_value

h5py = pytest.importorskip("h5py")
layers = keras.layers
CHANCE = np.random.default_rng(7)


def numbers(*shape):
    return CHANCE.normal(size=shape).astype("float32")


@keras.saving.register_keras_serializable("foreign")
class Tower(keras.Model):
    """Layers in attributes, lists, dicts and lists of lists."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units
        self.first = layers.Dense(units)
        self.rest = [layers.Dense(units), layers.LayerNormalization(), layers.Dense(units)]
        self.named = {"a": layers.Dense(units), "b": layers.Dense(2)}

    def call(self, inputs):
        x = self.first(inputs)
        for layer in self.rest:
            x = layer(x)
        return self.named["b"](self.named["a"](x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def sequential():
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.3, seed=1),
            layers.Dense(3, kernel_regularizer="l2"),
        ]
    ), numbers(16, 8)


def several_inputs():
    one, two = keras.Input((4,), name="one"), keras.Input((6,), name="two")
    shared = layers.Dense(5, name="shared")
    x = layers.Concatenate()([shared(layers.Dense(4)(one)), shared(layers.Dense(4)(two))])
    model = keras.Model({"one": one, "two": two}, layers.Dense(2)(x))
    return model, {"one": numbers(16, 4), "two": numbers(16, 6)}


def texts():
    inputs = keras.Input((7,), dtype="int32")
    x = layers.Embedding(20, 8)(inputs)
    x = layers.MultiHeadAttention(2, 4)(x, x)
    x = layers.Bidirectional(layers.LSTM(5))(x)
    return keras.Model(inputs, layers.Dense(2)(x)), CHANCE.integers(0, 20, (16, 7)).astype("int32")


def images():
    inputs = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(6, 3)(inputs)
    x = layers.GroupNormalization(2)(x)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))), numbers(16, 8, 8, 3)


def nested():
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(6), layers.Dense(6)])
    inputs = keras.Input((8,))
    return keras.Model(inputs, layers.Dense(2)(inner(inputs))), numbers(16, 8)


def subclassed():
    model = Tower(6)
    x = numbers(16, 8)
    model(x)
    return model, x


NEW = (sequential, several_inputs, texts, images, nested, subclassed)
OLD = (sequential, several_inputs, texts, images, nested)


def trained(make):
    model, x = make()
    y = numbers(16, model.output_shape[-1] if make is not subclassed else 2)
    # By a class: Keras 3.15 does not load what it saved as HDF5 with loss="mse".
    loss = keras.losses.MeanSquaredError()
    model.compile(keras.optimizers.AdamW(1e-2), loss, metrics=["mae"])
    model.fit(x, y, epochs=2, batch_size=8, verbose=0)
    return model, x, y


def same_variables(found, expected):
    assert len(found) == len(expected)
    for here, there in zip(found, expected, strict=True):
        assert here.dtype == there.dtype
        one, other = (keras.ops.convert_to_numpy(v.value) for v in (here, there))
        same_value(np.asarray(one), np.asarray(other), there.path)


def check(path, x, y, *, trains, by_keras=None):
    expected = keras.saving.load_model(by_keras or path)
    found = milepost.load_model(path)
    assert type(found) is type(expected)
    same_variables(found.weights, expected.weights)
    same_variables(found.optimizer.variables, expected.optimizer.variables)
    assert found.optimizer.get_config() == expected.optimizer.get_config()
    one, other = found.predict(x, verbose=0), expected.predict(x, verbose=0)
    assert one.tobytes() == other.tobytes()
    if trains:
        for model in (found, expected):
            keras.utils.set_random_seed(3)
            model.fit(x, y, epochs=1, batch_size=8, shuffle=False, verbose=0)
        same_variables(found.weights, expected.weights)
    return found


# Whether a file is read as Keras reads it has little to do with the backend.
swept_elsewhere = pytest.mark.slow if keras.backend.backend() != "tensorflow" else lambda test: test


@swept_elsewhere
@pytest.mark.parametrize("make", NEW, ids=lambda make: make.__name__)
def test_a_keras_file_loads_as_keras_loads_it(make, tmp_path):
    model, x, y = trained(make)
    model.save(tmp_path / "model.keras")
    check(tmp_path / "model.keras", x, y, trains=make is not sequential)


@swept_elsewhere
@pytest.mark.parametrize("make", OLD, ids=lambda make: make.__name__)
def test_an_hdf5_file_loads_as_keras_loads_it(make, tmp_path):
    model, x, y = trained(make)
    # From HDF5, Keras 3.15 does not bring back the optimizer's slots; and a model that it saved
    # so has forgotten its optimizer when it is saved again.
    model.save(tmp_path / "model.keras")
    model.save(tmp_path / "model.h5")
    by_keras = tmp_path / "model.keras"
    found = check(tmp_path / "model.h5", x, y, trains=make is not sequential, by_keras=by_keras)
    assert found.loss is not None


def test_a_model_that_was_never_compiled_loads(tmp_path):
    model, x = sequential()
    for name in ("model.keras", "model.h5"):
        model.save(tmp_path / name)
        found = milepost.load_model(tmp_path / name)
        assert found.predict(x, verbose=0).tobytes() == model.predict(x, verbose=0).tobytes()


@swept_elsewhere
def test_a_mobile_net_loads(tmp_path):
    model = keras.applications.MobileNetV2((32, 32, 3), weights=None, classes=4)
    for name in ("model.keras", "model.h5"):
        model.save(tmp_path / name)
        same_variables(milepost.load_model(tmp_path / name).weights, model.weights)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="strings need TensorFlow")
def test_vocabularies_come_back(tmp_path):
    import tensorflow as tf

    lookup, words = layers.StringLookup(), layers.TextVectorization(output_sequence_length=4)
    lookup.adapt(["a", "b", "b"])
    words.adapt(["one two two", "two"])
    model = keras.Sequential([words])
    model(tf.constant(["one two"]))
    model.save(tmp_path / "words.keras")
    found = milepost.load_model(tmp_path / "words.keras")
    assert found.layers[-1].get_vocabulary() == words.get_vocabulary()


def rewritten(path, target, **changed):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in {**members, **changed}.items():
            archive.writestr(name, data)
    return target


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model, _, _ = trained(sequential)
    model.save(folder / "model.keras")
    model.save(folder / "model.h5")
    return folder


def layer(module, kind, /, **config):
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


MARSHALLED = layer(
    "keras.layers",
    "Lambda",
    name="l",
    function={"class_name": "__lambda__", "config": {"code": "4wAAAA==", "defaults": None}},
)
HOSTILE = {
    "os.system": (layer("os", "system", command="touch /tmp/x"), UnknownClassError),
    "builtins.eval": (layer("builtins", "eval"), UnknownClassError),
    "a lambda": (MARSHALLED, UntrustedError),
    "a function of Keras's own": (
        layer("keras.src.utils.file_utils", "get_file", origin="x"),
        UnknownClassError,
    ),
    "a module of Keras's": (layer("keras.src.saving.saving_lib", "load_model"), UnknownClassError),
    "a saved model": (layer("keras.layers", "TFSMLayer", filepath="/x"), UnknownClassError),
    "no class": (layer("keras.layers", None), UnknownClassError),
    "a giant": (layer("keras.layers", "Dense", units=1 << 40, name="d"), UntrustedError),
    "a file for a vocabulary": (
        layer("keras.layers", "StringLookup", vocabulary="/etc/passwd", name="v"),
        UntrustedError,
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_structure_is_refused(name, saved, tmp_path):
    node, error = HOSTILE[name]
    with zipfile.ZipFile(saved / "model.keras") as archive:
        config = json.loads(archive.read("config.json"))
    config["config"]["layers"].append(node)
    config["config"].pop("build_input_shape", None)
    data = json.dumps(config).encode()
    path = rewritten(saved / "model.keras", tmp_path / "x", **{"config.json": data})
    with pytest.raises(error):
        milepost.load_model(path)


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "no class"])
def test_a_hostile_structure_in_hdf5_is_refused(name, saved, tmp_path):
    node, error = HOSTILE[name]
    for bare in (False, True):
        path = tmp_path / f"{bare}.h5"
        path.write_bytes((saved / "model.h5").read_bytes())
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            keys = ("class_name", "config") if bare else tuple(node)
            config["config"]["layers"].append({key: node[key] for key in keys})
            file.attrs["model_config"] = json.dumps(config)
        with pytest.raises(error):
            milepost.load_model(path)


def test_an_optimizer_of_a_foreign_module_is_refused(saved, tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes((saved / "model.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        training = json.loads(file.attrs["training_config"])
        training["loss"] = layer("os", "system")
        file.attrs["training_config"] = json.dumps(training)
    with pytest.raises(UnknownClassError):
        milepost.load_model(path)


def changed_weights(saved, target, change):
    with zipfile.ZipFile(saved / "model.keras") as archive:
        weights = target.parent / "weights.h5"
        weights.write_bytes(archive.read("model.weights.h5"))
    with h5py.File(weights, "r+") as file:
        change(file)
    members = {"model.weights.h5": weights.read_bytes()}
    return rewritten(saved / "model.keras", target, **members)


def removed(file):
    del file["layers/dense/vars/0"]


def added(file):
    file["layers/dense/vars/7"] = np.zeros(3)


def reshaped(file):
    del file["layers/dense/vars/0"]
    file["layers/dense/vars/0"] = np.zeros((3, 3), "f4")


@pytest.mark.parametrize("change", [removed, added, reshaped], ids=lambda change: change.__name__)
def test_other_weights_than_the_structure_has_are_refused(change, saved, tmp_path):
    path = changed_weights(saved, tmp_path / "x.keras", change)
    with pytest.raises(RestoreRefusedError, match="dense/(vars/7|kernel)"):
        milepost.load_model(path)


def test_fewer_layers_in_hdf5_are_refused(saved, tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes((saved / "model.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        names = file["model_weights"].attrs["layer_names"]
        file["model_weights"].attrs["layer_names"] = names[:-1]
    with pytest.raises(UsageError, match="layers"):
        milepost.load_model(path)


def test_weights_alone_are_no_model(tmp_path):
    model, _ = sequential()
    model.save_weights(tmp_path / "x.weights.h5")
    with pytest.raises(UnknownFormatError, match="without the model's structure"):
        milepost.load_model(tmp_path / "x.weights.h5")


def test_there_is_no_example_to_replay(saved):
    with pytest.raises(UsageError, match="no example"):
        milepost.load_model(saved / "model.keras", replay=True)
    with pytest.raises(MilepostError, match="Keras's own file"):
        milepost.model.replay(saved / "model.keras")


def test_a_loss_by_name_comes_back_from_hdf5(tmp_path):
    model, x = sequential()
    model.compile("adam", "mse")
    model.save(tmp_path / "model.h5")
    found = milepost.load_model(tmp_path / "model.h5")
    y = numbers(16, 3)
    assert found.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)
