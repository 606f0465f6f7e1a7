"""`milepost verify`."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

import milepost
import milepost.frameworks.torch
from milepost import frameworks, save_model


def flip(path, position=-1):
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)


def test_all_is_well(cli, store, tmp_path):
    save_model(nn.Linear(2, 2), tmp_path / "model")
    save_file({"a": np.zeros(3)}, tmp_path / "foreign")
    for arguments, message in [
        ((store,), "intact: " + str(store) + ", 3 checkpoints\n"),
        ((store, "--step", 2), "1 checkpoint\n"),
        (("model",), "24 B in 2 leaves\n"),
        (("foreign",), "which has no digests to compare its data with\n"),
    ]:
        finished = cli("verify", *arguments)
        assert (finished.status, finished.err) == (0, "")
        assert finished.out.endswith(message)
    assert cli("verify", store, "--json").json == {"path": str(store), "intact": True, "damage": []}


def test_damage_has_an_exit_status_of_its_own(cli, store):
    pack = max((store / "data").iterdir())
    flip(pack)
    finished = cli("verify", store)
    assert (finished.status, finished.out) == (4, "")
    assert f"damaged: {pack}, leaf 'model/dense/kernel'" in finished.err
    document = cli("verify", store, "--json")
    assert document.status == 4
    assert document.json["intact"] is False
    assert document.json["damage"][0]["leaf"] == "model/dense/kernel"
    assert cli("verify", store, "--step", 1).status == 0


def test_damage_that_leaves_nothing_to_read(cli, store, tmp_path):
    save_model(nn.Linear(2, 2), tmp_path / "model")
    flip(tmp_path / "model", 100)
    flip(store / "milepost.json", 40)
    for path in ("model", store):
        finished = cli("verify", path, "--json")
        assert finished.status == 4
        assert len(finished.json["damage"]) == 1
        assert cli("verify", path).status == 4


def test_what_cannot_be_verified(cli, tmp_path):
    assert cli("verify", "nothing").status == 3
    milepost.Checkpoint(a=1).save(tmp_path / "store")
    finished = cli("verify", "store", "--step", 9)
    assert (finished.status, finished.out) == (3, "")
    assert "has no step 9; it has 1" in finished.err
    assert cli("verify", ".").status == 2


def test_a_replay(cli, tmp_path):
    save_model(nn.Linear(2, 2), tmp_path / "model", example=torch.ones(3, 2))
    finished = cli("verify", "model", "--replay")
    assert (finished.status, finished.err) == (0, "")
    last = finished.out.splitlines()[-1]
    assert last == "predicts as when it was saved: equal to the last bit, tolerance 0"
    replayed = {"difference": 0.0, "tolerance": 0.0, "reason": ""}
    assert cli("verify", "model", "--replay", "--json").json["replay"] == replayed
    replayed = {"difference": 0.0, "tolerance": 1e-4, "reason": "asked for"}
    assert cli("verify", "model", "--replay", "--close", "--json").json["replay"] == replayed


def test_a_model_that_predicts_differently(cli, tmp_path, monkeypatch):
    given = frameworks.torch.predict
    monkeypatch.setattr(frameworks.torch, "predict", lambda m, x: given(m, x) + 1e-3)
    save_model(nn.Linear(2, 2), tmp_path / "model", example=torch.ones(3, 2))
    finished = cli("verify", "model", "--replay")
    assert (finished.status, finished.out) == (8, "")
    assert "predicts differently: outputs is off by" in finished.err


def test_nothing_to_replay(cli, tmp_path):
    save_model(nn.Linear(2, 2), tmp_path / "model")
    finished = cli("verify", "model", "--replay")
    assert (finished.status, finished.out) == (2, "")
    assert "has no example to replay" in finished.err
