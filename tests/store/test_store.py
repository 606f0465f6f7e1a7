"""Stores: what is saved is what is read, and shared data is written once."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from milepost import errors, sealed
from milepost.state import State
from milepost.storage.local import LocalStorage
from milepost.storage.memory import MemoryStorage
from milepost.store import Store, Writer, verify_store
from milepost.store.best import ranked

from .conftest import check, make_state


def writer(storage) -> Writer:
    return Writer(Store.open_or_create(storage))


def test_a_state_comes_back_to_the_last_bit():
    storage = MemoryStorage()
    writer(storage).save(make_state(1), 7)
    check(Store.open(storage)[7], make_state(1))


@pytest.mark.usefixtures("small_chunks")
def test_large_leaves_come_back_from_several_chunks():
    storage = MemoryStorage()
    writer(storage).save(make_state(1), 7)
    snapshot = Store.open(storage)[7]
    assert len(snapshot.manifest.records["model/kernel"].chunks) > 3
    check(snapshot, make_state(1))
    kernel = make_state(1).leaves["model/kernel"]
    np.testing.assert_array_equal(snapshot["model/kernel"][5:9, 2:-1], kernel[5:9, 2:-1])


def test_steps_and_latest():
    storage = MemoryStorage()
    saver = writer(storage)
    for step in (3, 20, 100):
        saver.save(make_state(step), step)
    store = Store.open(storage)
    assert store.steps == list(store) == [3, 20, 100]
    assert store.latest.step == 100
    assert 20 in store
    assert 21 not in store
    assert store[3]["progress/epoch"] == 3


def test_metrics_and_metadata_are_kept():
    storage = MemoryStorage()
    writer(storage).save(
        make_state(1), 1, {"loss": np.float32(0.5), "n": 3}, {"note": "first", "tags": ["a"]}
    )
    checkpoint = Store.open(storage).latest
    assert checkpoint.metrics == {"loss": 0.5, "n": 3}
    assert checkpoint.metadata == {"note": "first", "tags": ["a"]}
    assert checkpoint.created.endswith("Z")
    assert checkpoint.manifest.versions["numpy"] == np.__version__


def test_nothing_about_the_machine_is_recorded(tmp_path: Path):
    writer(LocalStorage(tmp_path / "store")).save(make_state(1), 1)
    written = b"".join(p.read_bytes() for p in (tmp_path / "store").rglob("*") if p.is_file())
    for secret in (os.uname().nodename, str(tmp_path), os.path.expanduser("~")):
        assert secret.encode() not in written


def test_an_unchanged_leaf_is_written_once():
    storage = MemoryStorage()
    saver = writer(storage)
    first = saver.save(make_state(1), 1)
    second = saver.save(make_state(2), 2)
    third = saver.save(make_state(2), 3)
    assert second.written < first.written
    assert third.written == 0
    assert len(storage.list("data")) == 2
    check(Store.open(storage)[3], make_state(2))


def test_a_new_process_does_not_write_again_what_the_newest_checkpoint_has():
    storage = MemoryStorage()
    writer(storage).save(make_state(1), 1)
    assert writer(storage).save(make_state(1), 2).written == 0


def test_equal_leaves_are_written_once():
    storage = MemoryStorage()
    array = np.arange(1000.0)
    report = writer(storage).save(State({"a": array, "b": array.copy(), "c": array * 2}), 1)
    assert report.written == 16_000
    assert report.nbytes == 24_000
    store = Store.open(storage)
    np.testing.assert_array_equal(np.asarray(store[1]["b"]), array)


@pytest.mark.usefixtures("small_chunks")
def test_only_the_changed_chunks_of_a_large_leaf_are_written():
    storage = MemoryStorage()
    saver = writer(storage)
    array = np.arange(10_000, dtype=np.int64)
    saver.save(State({"a": array}), 1)
    changed = array.copy()
    changed[5000] = -1
    report = saver.save(State({"a": changed}), 2)
    assert report.written < 1000
    store = Store.open(storage)
    np.testing.assert_array_equal(np.asarray(store[1]["a"]), array)
    np.testing.assert_array_equal(np.asarray(store[2]["a"]), changed)


def test_packs_are_safetensors_files_under_the_leaves_names(tmp_path: Path):
    writer(LocalStorage(tmp_path / "store")).save(make_state(1), 1)
    [pack] = (tmp_path / "store" / "data").iterdir()
    tensors = load_file(pack)
    kernel = make_state(1).leaves["model/kernel"]
    np.testing.assert_array_equal(tensors["model/kernel"], kernel)
    # safetensors has no complex128: its bytes are there, its dtype only in the manifest.
    assert tensors["model/complex"].shape == (2, 16)
    assert tensors["model/complex"].view(np.complex128)[0, 0] == 1 + 2j


def test_a_manifest_is_json_that_any_parser_reads(tmp_path: Path):
    writer(LocalStorage(tmp_path / "store")).save(make_state(1), 1)
    [file] = (tmp_path / "store" / "checkpoints").iterdir()
    assert file.name == "00000000000000000001.json"
    body = json.loads(file.read_text(), parse_constant=lambda word: pytest.fail(word))["manifest"]
    assert body["format"] == 1
    assert body["leaves"]["progress/epoch"] == {"value": 1}
    assert body["leaves"]["model/kernel"]["dtype"] == "float32"


def test_a_step_is_committed_once():
    storage = MemoryStorage()
    saver = writer(storage)
    saver.save(make_state(1), 1)
    with pytest.raises(errors.StepExistsError, match="has step 1 already"):
        saver.save(make_state(2), 1)
    check(Store.open(storage)[1], make_state(1))


def test_overwrite_replaces_a_step_and_its_data():
    storage = MemoryStorage()
    saver = writer(storage)
    saver.save(make_state(1), 1)
    saver.save(make_state(2), 1, overwrite=True)
    check(Store.open(storage)[1], make_state(2))
    # The frozen leaf still lies in the first pack; nothing else keeps it.
    saver.save(make_state(2, frozen=5), 1, overwrite=True)
    check(Store.open(storage)[1], make_state(2, frozen=5))
    assert list(verify_store(Store.open(storage))) == []


def test_a_step_that_is_not_there_says_which_are():
    storage = MemoryStorage()
    saver = writer(storage)
    with pytest.raises(errors.StepNotFoundError, match="has no checkpoint yet"):
        _ = saver.store.latest
    for step in (1, 5):
        saver.save(make_state(step), step)
    with pytest.raises(errors.StepNotFoundError, match="has no step 3; it has 1, 5"):
        Store.open(storage)[3]
    with pytest.raises(KeyError):
        Store.open(storage)[3]


@pytest.mark.parametrize("step", [-1, 1.5, "7", True, None, 10**20])
def test_a_step_is_a_whole_number(step):
    with pytest.raises(errors.UsageError, match="expected"):
        writer(MemoryStorage()).save(make_state(1), step)


def test_numpy_integers_are_steps():
    storage = MemoryStorage()
    writer(storage).save(make_state(1), np.int64(4))
    assert Store.open(storage).steps == [4]


def test_metrics_are_numbers():
    with pytest.raises(errors.UsageError, match="metric 'loss' should be a number"):
        writer(MemoryStorage()).save(make_state(1), 1, {"loss": "low"})


def test_metadata_is_json():
    with pytest.raises(errors.UsageError, match="metadata must be JSON"):
        writer(MemoryStorage()).save(make_state(1), 1, metadata={"when": object()})


def test_a_huge_metric_is_refused_and_one_in_a_file_can_be_compared():
    store = Store.open_or_create(MemoryStorage())
    with pytest.raises(errors.UsageError, match="fits a float"):
        Writer(store).save(make_state(1), 1, {"loss": 10**400})
    assert store.steps == []
    assert ranked({1: {"loss": 10**400}, 2: {"loss": 5}, 3: {"loss": math.nan}}, "loss") == [2, 1]


def test_a_step_of_thousands_of_digits_is_refused():
    with pytest.raises(errors.UsageError, match="found a value of type int, too long to show"):
        Writer(Store.open_or_create(MemoryStorage())).save(make_state(1), 10**5000)


def test_metrics_and_metadata_that_are_no_mappings_are_refused():
    saver = Writer(Store.open_or_create(MemoryStorage()))
    for options in (
        {"metrics": [1]},
        {"metrics": []},
        {"metadata": []},
        {"metrics": {"\ud800": 1}},
    ):
        with pytest.raises(errors.UsageError, match="metric|metadata"):
            saver.save(make_state(1), 1, **options)


def test_best_by_a_metric():
    storage = MemoryStorage()
    saver = writer(storage)
    for step, loss, score in [(1, 0.5, 3), (2, 0.2, 9), (3, float("nan"), 1), (4, 0.2, 5)]:
        saver.save(make_state(step), step, {"val_loss": loss, "score": score})
    saver.save(make_state(5), 5)
    store = Store.open(storage)
    assert store.resolve("best:val_loss") == 4  # of equals the newer
    assert store.resolve("max:val_loss") == 1
    assert store.resolve("max:score") == 2
    with pytest.raises(errors.UsageError, match="'min:score' or 'max:score'"):
        store.resolve("best:score")
    with pytest.raises(errors.StepNotFoundError, match="its metrics are score, val_loss"):
        store.resolve("best:accuracy")
    with pytest.raises(errors.UsageError, match="expected a step's number"):
        store.resolve("newest")


def test_a_folder_that_is_no_store(tmp_path: Path):
    (tmp_path / "photo.jpg").write_bytes(b"...")
    with pytest.raises(errors.NotAStoreError, match="has no milepost.json"):
        Store.open(LocalStorage(tmp_path))
    with pytest.raises(errors.NotAStoreError, match="not empty"):
        Store.open_or_create(LocalStorage(tmp_path))
    assert os.listdir(tmp_path) == ["photo.jpg"]


def test_a_path_that_does_not_exist(tmp_path: Path):
    with pytest.raises(errors.PathNotFoundError, match="does not exist"):
        Store.open(LocalStorage(tmp_path / "nothing"))
    assert os.listdir(tmp_path) == []


def test_a_store_of_a_newer_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    storage = LocalStorage(tmp_path / "store")
    with monkeypatch.context() as newer:
        seal = sealed.seal
        newer.setattr(
            sealed, "seal", lambda kind, body, version=1, **more: seal(kind, body, 3, **more)
        )
        newer.setattr(sealed, "FORMAT_VERSION", 3)
        writer(storage).save(make_state(1), 1)
    with pytest.raises(errors.VersionError, match="format version 3.*upgrade"):
        Store.open(storage)
    with pytest.raises(errors.VersionError):
        Store.open_or_create(storage)


def test_a_leaf_that_changes_while_it_is_saved_is_noticed():
    class Restless:
        dtype, shape = np.dtype(np.float32), (3,)

        def __init__(self):
            self.reads = 0

        def __array__(self, dtype=None, copy=None):
            self.reads += 1
            return np.full(3, self.reads, np.float32)

    storage = MemoryStorage()
    with pytest.raises(errors.UsageError, match="'restless' changed while it was being saved"):
        writer(storage).save(State({"restless": Restless()}), 1)
    assert Store.open(storage).steps == []
    assert storage.list("data") == []


def test_a_store_that_is_deleted_and_made_again_is_written_in_full(tmp_path: Path):
    import shutil

    from milepost import Checkpoint

    checkpoint = Checkpoint(array=np.arange(100.0))
    checkpoint.save(tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    checkpoint.save(tmp_path / "store")
    store = Store.open(LocalStorage(tmp_path / "store"))
    np.testing.assert_array_equal(np.asarray(store.latest["array"]), np.arange(100.0))
