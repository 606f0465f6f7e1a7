"""Safetensors files, beside what the safetensors library reads; and folders of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import milepost
from milepost.errors import DamagedError
from milepost.testing import FormatTests, same_value


class TestSafetensors(FormatTests):
    def make(self, folder):
        chance = np.random.default_rng(7)
        path = folder / "model.safetensors"
        tensors = {
            "layer/kernel": chance.normal(size=(5, 7)).astype(np.float32),
            "layer/bias": np.arange(7, dtype=np.float16),
            "steps": np.array(12, np.int64),
            "flags": np.array([True, False, True]),
            "empty": np.zeros((0, 4), np.float32),
        }
        save_file(tensors, path, {"format": "np"})
        return path, load_file(path)


SHARDS = [
    {"a.kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.ones(3)},
    {"b.kernel": np.arange(8, dtype=np.int8)},
]
NAMES = [f"model-{number:05}-of-00002.safetensors" for number in (1, 2)]


def save_shards(folder):
    """A folder in the layout of the hub, with the index that Transformers writes."""
    for name, tensors in zip(NAMES, SHARDS, strict=True):
        save_file(tensors, folder / name, {"format": "pt"})
    weight_map = {
        leaf: name for name, tensors in zip(NAMES, SHARDS, strict=True) for leaf in tensors
    }
    index = {"metadata": {"total_size": 56}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return index


class TestShards(FormatTests):
    def make(self, folder):
        save_shards(folder)
        return folder, {**SHARDS[0], **SHARDS[1]}


class TestIndex(FormatTests):
    renames = False  # the shards stay where they are

    def make(self, folder):
        save_shards(folder)
        return folder / "model.safetensors.index.json", {**SHARDS[0], **SHARDS[1]}


@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model", "adapter_model"])
def test_a_folder_with_one_file(tmp_path, stem):
    save_file(SHARDS[0], tmp_path / f"{stem}.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with milepost.open(tmp_path) as snapshot:
        same_value(snapshot.read("a.kernel"), SHARDS[0]["a.kernel"], "a.kernel")


HOSTILE = {
    "a tensor of another shard": {"a.bias": NAMES[1]},
    "a tensor that is not there": {"c": NAMES[0]},
    "a tensor too few": {"a.bias": None},
    "a file that is not there": {"a.bias": "other.safetensors"},
    "a file outside": {"a.bias": "../model.safetensors"},
    "an absolute path": {"a.bias": "/etc/model.safetensors"},
    "a path of windows": {"a.bias": "..\\model.safetensors"},
    "a file that is no shard": {"a.bias": "config.json"},
    "a number for a file": {"a.bias": 7},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_indexes_are_refused(tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a.bias": np.ones(3)}, tmp_path / "model.safetensors")
    index = save_shards(folder)
    for leaf, file in HOSTILE[name].items():
        index["weight_map"][leaf] = file
        if file is None:
            del index["weight_map"][leaf]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DamagedError):
        milepost.open(folder)


def test_the_links_of_the_hubs_cache_are_followed(tmp_path):
    """A snapshot's folder there has links to files that are named by their digests."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save_shards(tmp_path / "blobs")
    for number, file in enumerate(sorted((tmp_path / "blobs").iterdir())):
        file.rename(tmp_path / "blobs" / str(number))
        (tmp_path / "snapshot" / file.name).symlink_to(tmp_path / "blobs" / str(number))
    with milepost.open(tmp_path / "snapshot") as snapshot:
        same_value(snapshot.read("a.bias"), SHARDS[0]["a.bias"], "a.bias")
