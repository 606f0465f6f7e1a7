"""Hostile Keras structures: refused with an error of ours, and nothing of them is run."""

from __future__ import annotations

import base64
import marshal
import sys

import pytest

import keras
from milepost import errors, load_model, save_model
from tests.model.test_model_file import rewrite

CODE = base64.b64encode(marshal.dumps(compile("1", "x", "eval"))).decode()


@pytest.fixture
def path(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="relu")])
    model.compile("adam", "mse")
    save_model(model, tmp_path / "model")
    return tmp_path / "model"


def layer(node):
    def change(body):
        body["structure"]["config"]["config"]["layers"][1] = node

    return change


def dense(**config):
    def change(body):
        body["structure"]["config"]["config"]["layers"][1]["config"].update(config)

    return change


def compiled(**config):
    def change(body):
        body["structure"]["config"]["compile_config"].update(config)

    return change


def node(module, name, config=None, **more):
    return {"module": module, "class_name": name, "config": config or {}, **more}


def function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


CLOSURE = [CODE, None, None]
LAMBDA = {"class_name": "__lambda__", "config": {"value": CLOSURE}}
BYTES = {"class_name": "__bytes__", "config": {"value": "x"}}
VOCABULARY = {"vocabulary": "/etc/passwd"}
TYPE = {"class_name": "__typespec__", "spec_name": "X", "module": "os", "config": []}
ORIGIN = {"origin": "http://localhost/x"}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (layer(node("keras.layers", "Lambda", {"function": LAMBDA})), errors.UntrustedError),
        (dense(activation=LAMBDA), errors.UntrustedError),
        (dense(activation={"value": CLOSURE}), errors.UntrustedError),
        (layer(node("keras.layers", "TFSMLayer", {"filepath": "x"})), errors.UnknownClassError),
        (layer(node("keras.layers", "TorchModuleWrapper", BYTES)), errors.UnknownClassError),
        (layer(node("keras.layers", "JaxLayer")), errors.UnknownClassError),
        (layer(node("os", "system", {"command": "true"})), errors.UnknownClassError),
        (layer(node("builtins", "eval")), errors.UnknownClassError),
        (layer(node("keras.src.utils.file_utils", "get_file")), errors.UnknownClassError),
        (layer(node("keras.utils", "get_file", ORIGIN)), errors.UnknownClassError),
        (layer(node("keras.src.saving.saving_lib", "load_model")), errors.UnknownClassError),
        (layer(node(None, "Dense", {"units": 2})), errors.UnknownClassError),
        (layer({"class_name": "Dense", "config": {"units": 2}}), errors.UnknownClassError),
        (layer(TYPE), errors.UnknownClassError),
        (dense(activation=node("os", "function", "system")), errors.UnknownClassError),
        (dense(activation=function("os", "system")), errors.UnknownClassError),
        (dense(kernel_initializer=node("subprocess", "Popen")), errors.UnknownClassError),
        (compiled(loss=function("os", "system")), errors.UnknownClassError),
        (compiled(optimizer=node("os", "Evil")), errors.UnknownClassError),
        (layer(node("keras.layers", "StringLookup", VOCABULARY)), errors.UntrustedError),
        (layer(node("keras.layers", "TextVectorization", VOCABULARY)), errors.UntrustedError),
        (layer(node("keras.layers", "Dense", {"units": -1})), errors.UsageError),
        (layer(node("keras.layers", "Dense", {"units": 3})), errors.RestoreRefusedError),
        (layer("Dense"), errors.UsageError),
        (lambda body: body["structure"].update(config=3), errors.DamagedError),
        (lambda body: body["structure"].pop("config"), errors.DamagedError),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_is_refused(path, change, error):
    rewrite(path, change)
    before = set(sys.modules)
    with pytest.raises(error):
        load_model(path)
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert new <= {"keras", "tensorflow", "milepost"}


def test_the_name_that_is_checked_is_the_name_that_is_used(path):
    """A class of Keras is not looked up under another, registered name."""

    class Evil(keras.layers.Layer):
        def __init__(self, **options):
            raise SystemExit("built")

    rewrite(path, layer(node("keras.layers", "Dense", {"units": 2}, registered_name="evil>Evil")))
    loaded = load_model(path, custom_objects={"Evil": Evil})
    assert type(loaded.layers[0]) is keras.layers.Dense


def test_asset_names_never_become_paths(tmp_path):
    class Greedy(keras.layers.Layer):
        def call(self, x):
            return x

        def save_assets(self, folder):
            with open(f"{folder}/label.txt", "w") as file:
                file.write("x")

        def load_assets(self, folder):
            pass

    model = keras.Sequential([keras.Input((2,)), Greedy(name="greedy")])
    path = tmp_path / "model"
    save_model(model, path)
    load_model(path, custom_objects={"Greedy": Greedy})
    data = path.read_bytes()
    outside = b"/../escaped"
    renamed = data.replace(b"label.txt", outside[: len(b"label.txt")])
    assert renamed != data
    path.write_bytes(renamed)
    with pytest.raises(errors.DamagedError):  # the digest of the document
        load_model(path, custom_objects={"Greedy": Greedy})

    from milepost.frameworks.keras import assets

    for name in ("../escaped", "/etc/x", "a/b", "..", ".hidden", "a\0b", "con:"):
        with pytest.raises(errors.UntrustedError, match="could be a path"):
            assets.restore(model, {f"layers/greedy/{name}": b"x", f"greedy/{name}": b"x"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
