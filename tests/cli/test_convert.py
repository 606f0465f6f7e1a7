"""`milepost convert`."""

from __future__ import annotations

import numpy as np
import torch


def test_a_checkpoint_as_a_torch_file(cli, store, tmp_path):
    done = cli("convert", store, "new.pt", "--step", 2)
    assert (done.status, done.out.splitlines()[0]) == (
        0,
        f"{tmp_path}/new.pt: 4 leaves, 4.8 KB, torch",
    )
    found = torch.load(tmp_path / "new.pt", weights_only=True)
    assert found["model/dense/kernel"].unique().tolist() == [2]
    assert found["progress/epoch"] == 2


def test_json_has_what_is_left_out_and_what_the_cast_lost(cli, tmp_path):
    np.savez(tmp_path / "source.npz", x=np.array([1e30, 1.0]), n=np.arange(3))
    arguments = ("--dtype", "float16", "--rename", "x=y", "--drop", "n", "--json")
    report = cli("convert", "source.npz", "new.safetensors", *arguments).json
    assert (report["cast"], report["overflowed"], report["leaves"]) == (1, {"y": 1}, 1)
    assert report["files"] == [f"{tmp_path}/new.safetensors"]
    lines = cli("convert", "source.npz", "new.pt", "--dtype", "float16").out.splitlines()
    assert lines[1:] == ["cast: 1 arrays", "x: 1 numbers overflowed"]


def test_a_store_is_written(cli, tmp_path):
    np.savez(tmp_path / "source.npz", x=np.ones(2))
    assert cli("convert", "source.npz", "new", "--to", "store", "--step-number", 5).status == 0
    assert cli("log", "new", "--json").json[0]["step"] == 5


def test_what_is_wrong_is_one_message_and_a_status(cli, tmp_path):
    np.savez(tmp_path / "source.npz", x=np.ones(2))
    for arguments in (
        ("source.npz", "source.npz"),
        ("source.npz", "new"),
        ("source.npz", "new.pt", "--rename", "x"),
        ("source.npz", "new.pt", "--rename", "z=y"),
        ("source.npz", "new.pt", "--dtype", "int8"),
        ("source.npz", "new.gguf", "--to", "onnx"),
    ):
        done = cli("convert", *arguments)
        assert (done.status, done.out) == (2, ""), arguments
    assert cli("convert", "none.npz", "new.pt").status == 3
    assert cli("convert", "source.npz", "missing/new.pt").status == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source.npz"]
