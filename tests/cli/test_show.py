"""`milepost show`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import save_file
from torch import nn

import milepost
from milepost import save_model
from milepost.cli.show import show
from milepost.record import ForeignArray, PlainRecord
from milepost.snapshot import Description
from tests.inspection.snapshots import in_memory


def test_a_checkpoint_reads_like_the_model(cli, store):
    out = cli("show", store).out
    assert f"{store}, step 3" in out
    assert "milepost checkpoint" in out
    assert "loss 0.333333, odd nan" in out
    tree = [line.split() for line in out.split("\n\n")[1].splitlines()]
    assert tree[:3] == [
        ["model/dense", "2", "leaves", "4.8", "KB", "100.0%"],
        ["kernel", "float32", "[300,", "4]", "4.8", "KB", "99.8%"],
        ["bias", "float16", "[4]", "8", "B", "0.2%"],
    ]
    assert ["epoch", "int", "3"] in tree
    assert "'xxxxxxx" in out
    assert "..." in out


def test_another_step(cli, store):
    assert cli("show", store, "--step", 1, "--json").json["step"] == 1
    assert cli("show", store, "--step", "best:loss", "--json").json["step"] == 3
    assert cli("show", store, "--step", "max:loss", "--json").json["step"] == 1


def test_json(cli, store):
    document = cli("show", store, "--json").json
    kernel = {"dtype": "float32", "shape": [300, 4], "bytes": 4800}
    assert document["leaves"]["model/dense/kernel"] == kernel
    assert document["leaves"]["progress/epoch"] == {"type": "int", "value": 3}
    assert document["metrics"] == {"loss": 1 / 3, "odd": "nan"}
    assert document["versions"]["numpy"] == np.__version__
    assert document["bytes"] == 4808


def test_a_model_file(cli, tmp_path):
    torch.manual_seed(0)
    save_model(nn.Sequential(nn.Linear(3, 2)), tmp_path / "model", metadata={"labels": ["a", "b"]})
    out = cli("show", "model").out
    assert "milepost model" in out
    assert "framework: torch" in out
    assert "labels ['a', 'b']" in out
    assert ["0.weight", "float32", "[2,", "3]", "24", "B", "75.0%"] in [
        line.split() for line in out.splitlines()
    ]
    assert cli("show", "model", "--json").json["framework"] == "torch"


def test_a_model_that_says_what_it_takes(cli, tmp_path):
    save_model(
        nn.Linear(3, 2), tmp_path / "model", example=torch.ones(2, 3), labels=["no", "yes"], step=9
    )
    out = cli("show", "model").out
    for line in (
        "inputs:    input float32[?, 3]",
        "outputs:   output float32[?, 2]",
        "labels:    no, yes",
        "step:      9",
        "example:   yes",
    ):
        assert f"  {line}\n" in out
    document = cli("show", "model", "--json").json
    assert document["inputs"] == [{"name": "input", "dtype": "float32", "shape": [None, 3]}]
    assert list(document["leaves"]) == ["weight", "bias"]


def test_a_model_card(cli, tmp_path, store):
    save_model(nn.Linear(3, 2), tmp_path / "model", license="mit", notes="\x1b[31mred\n\nline")
    out = cli("show", "model", "--card").out
    assert out.startswith('---\nlicense: "mit"\n')
    assert "\\x1b[31mred\n\nline\n" in out  # what a terminal would obey is escaped
    finished = cli("show", store, "--card")
    assert (finished.status, finished.out) == (2, "")
    assert "holds no model's structure" in finished.err


def test_any_safetensors_file(cli, tmp_path):
    save_file({"a/b": np.zeros(3), "a/c": np.zeros((2, 2), np.int8)}, tmp_path / "x", {"by": "me"})
    out = cli("show", "x").out
    assert "by me" in out
    assert out.split("\n\n")[1].splitlines() == [
        "a             2 leaves  28 B  100.0%",
        "  b  float64  [3]       24 B   85.7%",
        "  c  int8     [2, 2]     4 B   14.3%",
    ]


def test_mistakes_have_a_message_and_an_exit_status(cli, store, tmp_path):
    (tmp_path / "text").write_text("Dear reader, this is a letter.")
    (tmp_path / "cut").write_bytes((tmp_path / "store" / "milepost.json").read_bytes()[:20])
    save_file({"a": np.zeros(1)}, tmp_path / "x")
    for arguments, status, message in [
        (("nothing",), 3, "does not exist"),
        (("text",), 2, "of no format that milepost reads"),
        ((".",), 2, "no store of checkpoints"),
        ((store, "--step", 9), 3, "has no step 9; it has 1, 2, 3"),
        ((store, "--step", "best:accuracy"), 3, "no step with the metric 'accuracy'"),
        ((store, "--step", "newest"), 2, "expected a step's number"),
        (("x", "--step", 1), 2, "--step is for stores"),
        (("x", "b"), 3, "has no leaf 'b'; it has 1 leaves of other names"),
        ((store, "model/dense/kern"), 3, "it has 'model/dense/kernel'"),
        ((store, "*/kern", "--stats"), 3, "it has 'model/dense/kernel'"),
        (("cut",), 2, "no format"),
    ]:
        finished = cli("show", *arguments)
        assert (finished.status, finished.out) == (status, "")
        assert message in finished.err


def test_what_has_seen_enough(store):
    import subprocess
    import sys

    command = f"{sys.executable} -m milepost show {store} | head -n 1"
    finished = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert finished.stdout.endswith("step 3\n")
    assert finished.stderr == ""


def test_a_step_of_thousands_of_digits(cli, store):
    for command in ("show", "verify"):
        finished = cli(command, store, "--step", "9" * 5000)
        assert finished.status == 2
        assert "expected a step of 20 digits at most, found 5000 digits" in finished.err
    assert cli("show", store, "--step", "9" * 20).status == 3


def test_a_dtype_smaller_than_a_byte_comes_as_bytes(cli, tmp_path):
    described = {
        "packed": {"dtype": "F4", "shape": [3, 2], "data_offsets": [0, 3]},
        "six": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [3, 6]},
        "whole": {"dtype": "F32", "shape": [1], "data_offsets": [6, 10]},
    }
    text = json.dumps(described).encode()
    data = bytes(range(6)) + np.float32(0.5).tobytes()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + data)
    with milepost.open(tmp_path / "x") as snapshot:
        assert np.asarray(snapshot["packed"]).tolist() == [0, 1, 2]
        assert np.asarray(snapshot["six"]).tolist() == [3, 4, 5]
        assert np.asarray(snapshot["six"]).dtype == np.uint8
        assert np.asarray(snapshot["whole"]).tolist() == [0.5]
    assert "packed  uint8" in cli("show", "x").out
    assert cli("verify", "x").status == 0


def lines_of(out: str) -> list[str]:
    return out.split("\n\n")[1].splitlines()


def test_some_leaves(cli, store):
    out = cli("show", store, "*/kernel").out
    assert "shown:     4.8 KB in 1 of them" in out
    assert [line.split()[0] for line in lines_of(out)] == ["model/dense", "kernel"]
    assert list(cli("show", store, "progress", "--json").json["leaves"]) == [
        "progress/epoch",
        "progress/note",
    ]


def test_folders_that_are_leaves_too_and_names_of_many_parts(cli, tmp_path):
    deep = "/".join(["d"] * 5000)
    arrays = {"a": np.zeros(1), "a/b": np.zeros(3), "a//c": np.zeros(0), deep: np.zeros(1)}
    save_file(arrays, tmp_path / "x")
    labels = [line.split()[0] for line in lines_of(cli("show", "x").out)]
    assert labels == ["a", "''", "c", "b", deep[:63], deep[64:]]


def test_statistics(cli, tmp_path):
    array = np.array([[-1, 0, 3.5], [np.nan, np.inf, 2]], np.float32)
    save_file({"a/b": array, "a/c": np.arange(3), "d": np.zeros(0)}, tmp_path / "x")
    assert lines_of(cli("show", "x", "--stats").out) == [
        "     dtype    shape     min  max   mean       std  zeros  NaN  Inf  histogram",
        "a             2 leaves",
        "  c  int64    [3]         0    2      1  0.816497      1    0    0  █   █   █",
        "  b  float32  [2, 3]     -1  3.5  1.125   1.74553      1    1    1  █ █   █  █",
        "d    float64  [0]                                      0    0    0",
    ]
    document = cli("show", "x", "a", "--stats", "--json").json
    assert document["leaves"]["a/b"]["statistics"] == {
        **{"count": 6, "zeros": 1, "nan": 1, "infinite": 1, "min": -1, "max": 3.5},
        **{"mean": 1.125, "std": pytest.approx(array[np.isfinite(array)].std())},
        "histogram": {
            "edges": [x / 2 - 1 for x in range(0, 11)],
            "counts": [1, 0, 1, 0, 0, 0, 1, 0, 0, 1],
        },
    }


class Quantised(milepost.Snapshot):
    def dequantised(self):
        return in_memory({"x": np.ones((4, 4), np.float32)})[0]


def test_what_a_foreign_file_calls_a_type(monkeypatch):
    record = ForeignArray("uint8", (2, 9), (), lambda box: np.zeros((2, 9), np.uint8), "Q8 [4, 4]")
    records = {"x": record, "y": PlainRecord(True)}
    snapshot = Quantised("quantised", records, [], Description("gguf"))
    monkeypatch.setattr(milepost, "open", lambda path: snapshot)
    [x, y] = lines_of(CliRunner().invoke(show, ["any"]).output)
    assert x == "x  uint8  [2, 9]  18 B  100.0%  Q8 [4, 4]"
    assert y.split() == ["y", "bool", "True"]
    leaves = json.loads(CliRunner().invoke(show, ["any", "--json"]).output)["leaves"]
    assert leaves["x"] == {"dtype": "uint8", "shape": [2, 9], "bytes": 18, "kind": "Q8 [4, 4]"}
    [x] = lines_of(CliRunner().invoke(show, ["any", "--dequantise"]).output)
    assert x == "x  float32  [4, 4]  64 B  100.0%"


def test_a_configuration_of_another_tool_does_not_fill_the_terminal(cli, tmp_path):
    save_file(
        {"a": np.ones(2)}, tmp_path / "m.safetensors", {"config": "x" * 10_000, "nothing": ""}
    )
    shown = cli("show", tmp_path / "m.safetensors")
    assert "nothing" not in shown.out
    assert max(map(len, shown.out.splitlines())) < 400
    assert "xxx..." in shown.out
    assert "x" * 10_000 in cli("show", tmp_path / "m.safetensors", "--json").out
