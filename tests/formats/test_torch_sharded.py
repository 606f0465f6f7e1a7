"""Folders in the hub's older layouts, of PyTorch's files and Flax's."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from flax.serialization import msgpack_serialize

import milepost
from milepost.errors import DamagedError
from milepost.testing import FormatTests, same_value

SHARDS = [
    {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(3, dtype=torch.int8)},
    {"b.weight": torch.arange(8.0).reshape(2, 4)},
]
NAMES = [f"pytorch_model-{number:05}-of-00002.bin" for number in (1, 2)]


def expected(*shards):
    return {name: tensor.numpy() for shard in shards for name, tensor in shard.items()}


def save_shards(folder, *, zipped=True):
    """What Transformers wrote with safe_serialization=False."""
    weight_map = {}
    for name, tensors in zip(NAMES, SHARDS, strict=True):
        torch.save(tensors, folder / name, _use_new_zipfile_serialization=zipped)
        weight_map |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": 59}, "weight_map": weight_map}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / "pytorch_model.bin.index.json").write_text(text)
    return index


class TestShards(FormatTests):
    zipped = True

    def make(self, folder):
        save_shards(folder, zipped=self.zipped)
        return folder, expected(*SHARDS)


class TestLegacyShards(TestShards):
    zipped = False


class TestIndex(FormatTests):
    renames = False  # the shards stay where they are

    def make(self, folder):
        save_shards(folder)
        return folder / "pytorch_model.bin.index.json", expected(*SHARDS)


@pytest.mark.parametrize("stem", ["pytorch_model", "diffusion_pytorch_model", "adapter_model"])
def test_a_folder_with_one_file(tmp_path, stem):
    torch.save(SHARDS[0], tmp_path / f"{stem}.bin")
    (tmp_path / "config.json").write_text("{}")
    with milepost.open(tmp_path) as snapshot:
        same_value(snapshot.read("a.weight"), SHARDS[0]["a.weight"].numpy(), "a.weight")


def test_a_folder_with_a_file_of_flax(tmp_path):
    (tmp_path / "flax_model.msgpack").write_bytes(msgpack_serialize({"a": {"kernel": np.ones(3)}}))
    (tmp_path / "config.json").write_text("{}")
    with milepost.open(tmp_path) as snapshot:
        assert list(snapshot) == ["a/kernel"]


HOSTILE = {
    "a tensor of another shard": {"a.bias": NAMES[1]},
    "a tensor that is not there": {"c": NAMES[0]},
    "a tensor too few": {"a.bias": None},
    "a file that is not there": {"a.bias": "other.bin"},
    "a file outside": {"a.bias": "../pytorch_model.bin"},
    "an absolute path": {"a.bias": "/etc/pytorch_model.bin"},
    "a file that is no shard": {"a.bias": "config.json"},
    "a shard that is an index": {"a.bias": "index.bin"},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_indexes_are_refused(tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save({"a.bias": torch.ones(3)}, tmp_path / "pytorch_model.bin")
    index = save_shards(folder)
    for leaf, file in HOSTILE[name].items():
        index["weight_map"][leaf] = file
        if file is None:
            del index["weight_map"][leaf]
    for file in ("pytorch_model.bin.index.json", "index.bin"):
        (folder / file).write_text(json.dumps(index))
    with pytest.raises(DamagedError):
        milepost.open(folder)
