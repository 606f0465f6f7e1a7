"""SavedModel folders, as TensorFlow and Keras write them, and as somebody hostile would."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

import milepost
from milepost.errors import DamagedError, UntrustedError
from milepost.testing import FormatTests
from milepost.testing.watch import soon
from tests.formats.tensorflow_files import entry, expected, field, varint, write


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    keras = pytest.importorskip("keras")
    path = tmp_path_factory.mktemp("keras") / "model"
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    model.export(str(path), verbose=False)
    return path, expected(path / "variables" / "variables")


class TestKerasExport(FormatTests):
    @pytest.fixture(autouse=True)
    def _made_once(self, exported):
        self.once = exported

    def make(self, folder):
        shutil.copytree(self.once[0], folder / "model")
        return folder / "model", self.once[1]

    def test_its_signatures_are_told(self, made):
        with self.opened(made[0]) as snapshot:
            facts = snapshot.facts()
            assert facts["format"] == "TensorFlow SavedModel"
            told = facts["metadata"]
            assert told["tags"] == ["serve"]
            signature = told["signatures"]["serving_default"]
            assert list(signature["inputs"].values()) == ["float32[?, 4]"]
            assert list(signature["outputs"].values()) == ["float32[?, 2]"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    tf = pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("saved")
    (folder / "words.txt").write_text("one\ntwo\n")

    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            self.weights = [tf.Variable(tf.random.normal((3, n))) for n in (2, 4)]
            self.words = tf.saved_model.Asset(str(folder / "words.txt"))

        @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec(None, tf.int64)])
        def call(self, x, other):
            return {"y": x @ self.weights[0], "other": other}

    model = Model()
    path = folder / "model"
    tf.saved_model.save(model, str(path), signatures={"call": model.call})
    loaded = tf.saved_model.load(str(path))
    found = expected(path / "variables" / "variables")
    assert any(np.array_equal(value, loaded.weights[1].numpy()) for value in found.values())
    return path, found


class TestSavedModule(FormatTests):
    @pytest.fixture(autouse=True)
    def _made_once(self, saved):
        self.once = saved

    def make(self, folder):
        shutil.copytree(self.once[0], folder / "model")
        return folder / "model", self.once[1]

    def test_its_signatures_and_assets_are_told(self, made):
        with self.opened(made[0]) as snapshot:
            assert snapshot.metadata["assets"] == ["words.txt"]
            assert snapshot.metadata["signatures"] == {
                "call": {
                    "inputs": {"x": "float32[?, 3]", "other": "int64[...]"},
                    "outputs": {"y": "float32[?, 2]", "other": "int64[...]"},
                }
            }


GRAPH = field(2, field(1, field(4, b"serve")))


def folder_of(tmp_path, program, variables=True):
    (tmp_path / "saved_model.pb").write_bytes(program)
    if variables:
        (tmp_path / "variables").mkdir()
        entries = [(b"a", entry(3, [], bytes(4)))]
        write(tmp_path / "variables", entries, bytes(4), name="variables")
    return str(tmp_path)


def test_one_without_variables_has_no_leaves(tmp_path):
    with milepost.open(folder_of(tmp_path, GRAPH, variables=False)) as snapshot:
        assert list(snapshot) == []
        assert snapshot.metadata["tags"] == ["serve"]


def nested(depth):
    message = b""
    for _ in range(depth):
        message = field(2, message)
    return message


HOSTILE = {
    "nothing": b"",
    "no graph": field(1, 1),
    "a length that overflows": b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    "a field behind its message": b"\x12\x05\x2a\x7f",
    "a million signatures": field(2, field(5, b"\x0a\x01x\x12\x00") * 1_000_000),
    "a million fields": field(2, b"\x08\x00" * 1_000_000),
    "a long shape": field(
        2,
        field(5, field(1, b"s") + field(2, field(1, field(2, field(3, b"\x12\x00" * 9999))))),
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_refused(tmp_path, name):
    with pytest.raises(DamagedError):
        milepost.open(folder_of(tmp_path, HOSTILE[name]))


def test_deep_nesting_is_not_followed(tmp_path):
    with milepost.open(folder_of(tmp_path, GRAPH + nested(10_000))) as snapshot:
        assert list(snapshot) == ["a"]


def test_a_large_program_is_not_read(tmp_path):
    """Two gigabytes of constants, as of a model that was frozen."""
    size = 2 << 30
    graph = field(1, field(4, b"serve")) + b"\x12" + varint(size)
    head = b"\x12" + varint(len(graph) + size) + graph
    path = folder_of(tmp_path, head)
    os.truncate(os.path.join(path, "saved_model.pb"), len(head) + size)
    with soon(0.15), milepost.open(path) as snapshot:
        assert snapshot.metadata["tags"] == ["serve"]


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    inside = tmp_path / "model"
    inside.mkdir()
    path = folder_of(inside, GRAPH)
    (inside / "variables").rename(tmp_path / "elsewhere")
    (inside / "variables").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UntrustedError, match="link"):
        milepost.open(path)
