"""Keras files, beside what h5py finds in them: weights, whole models, shards, of both layouts."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import pytest

import milepost
from milepost.errors import DamagedError, UntrustedError
from milepost.formats.keras_config import KerasSnapshot
from milepost.testing import FormatTests
from tests.formats.test_hdf5 import expected_of

pytest.importorskip("h5py")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One trained model, saved in every way that Keras has."""
    import keras

    folder = tmp_path_factory.mktemp("keras")
    keras.utils.clear_session()  # or layers are numbered on from other tests
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3, dtype="bfloat16"),
        ]
    )
    model.compile("adam", "mse")
    x = np.random.default_rng(7).normal(size=(16, 8)).astype("float32")
    model.fit(x, x[:, :3], epochs=1, verbose=0)
    model.save(folder / "model.keras")
    model.save(folder / "folder", zipped=False)
    model.save_weights(folder / "alone.weights.h5")
    model.save_weights(folder / "many.weights.json", max_shard_size=1e-6)
    plain = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    plain.compile("adam", "mse")
    plain.fit(x, x[:, :4], epochs=1, verbose=0)
    plain.save(folder / "model.h5")
    lookup = keras.layers.StringLookup()
    lookup.adapt(["a", "b", "b"])
    words = keras.Sequential([lookup])
    words.build((None,))
    words.save(folder / "words.keras")
    return folder


class OfKeras(FormatTests):
    executions = 60

    @pytest.fixture
    def made(self, files, tmp_path):
        folder = tmp_path / "made"
        folder.mkdir()
        self.files = files
        return self.make(folder)

    def copied(self, folder, name):
        shutil.copy(self.files / name, folder / name)
        return folder / name


class TestModel(OfKeras):
    def make(self, folder):
        path = self.copied(folder, "model.keras")
        with zipfile.ZipFile(path) as archive:
            archive.extract("model.weights.h5", folder.parent)
        return path, expected_of(folder.parent / "model.weights.h5")


class TestCompressedModel(TestModel):
    def make(self, folder):
        path, expected = super().make(folder)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return path, expected


class TestFolder(OfKeras):
    def make(self, folder):
        path = folder / "model"
        shutil.copytree(self.files / "folder", path)
        return path, expected_of(path / "model.weights.h5")


class TestWeights(OfKeras):
    def make(self, folder):
        path = self.copied(folder, "alone.weights.h5")
        return path, expected_of(path)


class TestShards(OfKeras):
    renames = True

    def make(self, folder):
        for file in self.files.glob("many*"):
            shutil.copy(file, folder)
        assert len(list(folder.iterdir())) > 2
        expected = {}
        for file in sorted(folder.glob("*.h5")):
            expected |= expected_of(file)
        return folder / "many.weights.json", expected

    def test_it_is_known_by_its_content(self, made):
        path, expected = made
        with self.opened(path.rename(path.with_name("other.name"))) as snapshot:
            assert sorted(snapshot) == sorted(expected)

    def test_a_missing_file_is_named(self, made):
        path, _ = made
        path.with_name("many_00001.weights.h5").unlink()
        with pytest.raises(DamagedError, match="many_00001"):
            milepost.open(path)

    def test_files_of_two_models_are_refused(self, made):
        path, _ = made
        shutil.copy(
            path.with_name("many_00001.weights.h5"), path.with_name("many_00000.weights.h5")
        )
        with pytest.raises(DamagedError, match="saved together"):
            milepost.open(path)

    @pytest.mark.parametrize("name", ["../many_00000.weights.h5", "/etc/passwd", "a\\b", 3, None])
    def test_files_elsewhere_are_refused(self, name, made):
        path, _ = made
        index = json.loads(path.read_text())
        index["weight_map"]["/layers/dense/vars"] = name
        path.write_text(json.dumps(index))
        with pytest.raises(DamagedError, match="no file beside it"):
            milepost.open(path)


class TestLegacyModel(OfKeras):
    def make(self, folder):
        path = self.copied(folder, "model.h5")
        return path, expected_of(path)


def opened(path) -> KerasSnapshot:
    found = milepost.open(path)
    assert isinstance(found, KerasSnapshot)
    return found


def test_the_facts_tell_of_the_model(files):
    import keras

    with opened(files / "model.keras") as snapshot:
        facts = snapshot.facts()
        assert (facts["format"], facts["keras"]) == ("Keras model", keras.__version__)
        assert (facts["class"], facts["layers"], facts["compiled"]) == ("Sequential", 5, True)
        assert snapshot.spec("layers/dense_1/vars/0").dtype == "bfloat16"
        assert snapshot.metadata["attributes"]["layers/dense/vars"] == {"name": "dense"}
    with opened(files / "model.h5") as snapshot:
        facts = snapshot.facts()
        assert (facts["format"], facts["keras"]) == ("Keras HDF5 model", keras.__version__)
        assert (facts["class"], facts["compiled"]) == ("Sequential", True)
    with opened(files / "alone.weights.h5") as snapshot:
        assert snapshot.facts()["format"] == "Keras weights"


def test_assets_are_there_by_content(files):
    with opened(files / "words.keras") as snapshot:
        [(name, read)] = snapshot.structure.assets.items()
        assert name.endswith("vocabulary.txt")
        assert read().split() == [b"[UNK]", b"b", b"a"]


def rewritten(path, target, **changed):
    """A `.keras` file with other members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in {**members, **changed}.items():
            archive.writestr(name, data)
    return target


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"[]",
        b"{",
        b'{"a": 1, "a": 2}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
        b'{"a": [' + b"[]," * 600_000 + b"[]]}",
        b"\xff\xfe",
    ],
    ids=["empty", "list", "cut", "twice", "deep", "deep objects", "number", "brackets", "no text"],
)
def test_a_structure_that_is_no_json_is_refused(config, files, tmp_path):
    path = rewritten(files / "model.keras", tmp_path / "x", **{"config.json": config})
    with pytest.raises(DamagedError, match="JSON"):
        milepost.open(path)


def test_weights_that_inflate_without_end_are_refused(files, tmp_path):
    with zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(200 << 20))
    with pytest.raises(UntrustedError, match="inflate"):
        milepost.open(tmp_path / "x")


def test_a_folder_with_a_link_for_an_asset_is_refused(files, tmp_path):
    shutil.copytree(files / "folder", tmp_path / "x")
    (tmp_path / "x/assets").mkdir(exist_ok=True)
    (tmp_path / "x/assets/vocabulary.txt").symlink_to("/etc/passwd")
    with pytest.raises(UntrustedError, match="link"):
        milepost.open(tmp_path / "x")
