"""`milepost diff`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

import milepost
from milepost.cli.diff import DIFFERENT, diff


def run(*arguments: object) -> Result:
    return CliRunner().invoke(diff, [*map(str, arguments)])


def as_json(*arguments: object):
    finished = run(*arguments, "--json")
    assert finished.exit_code == 0, finished.output
    return json.loads(finished.output, parse_constant=lambda word: pytest.fail(word))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    kernel, moved = np.ones((2, 8), np.float32), np.arange(3)
    a = {"kernel": kernel, "cast": kernel, "shape": kernel, "zero": np.zeros(1), "old": moved}
    b = {
        **{"kernel": kernel * 1.25, "cast": kernel.astype(np.float16), "shape": kernel.T.copy()},
        **{"zero": -np.zeros(1), "new": moved, "same": kernel},
    }
    save_file({**a, "same": kernel, "gone\x1b": np.zeros(2)}, tmp_path / "a")
    save_file({**b, "more": np.zeros(3)}, tmp_path / "b")
    return tmp_path / "a", tmp_path / "b"


def test_it_reads_well(files):
    a, b = files
    finished = run(a, b)
    assert finished.exit_code == 0
    assert finished.output.splitlines() == [
        f"A: {a}",
        f"B: {b}",
        "",
        "only in A: 1",
        "  gone\\x1b  float64[2]",
        "",
        "only in B: 1",
        "  more  float64[3]",
        "",
        "moved, the same otherwise: 1",
        "  old  ->  new  int64[3]",
        "",
        "changed: 1",
        "  shape  float32[2, 8] -> float32[8, 2]",
        "",
        "changed, worst first: 3",
        "                                          relative L2  max abs    cosine"
        "                        differing",
        "  kernel  float32[2, 8]                          0.25     0.25  1.000000"
        "                         16 of 16",
        "  zero    float64[1]                                0        0          "
        "  only bits: 0.0 and -0.0, or NaN",
        "  cast    float32[2, 8] -> float16[2, 8]            0        0  1.000000"
        "                          0 of 16",
        "",
        "identical: 1 leaf",
    ]


def test_json(files):
    found = as_json(*files)
    assert found["only_a"] == {"gone\x1b": {"dtype": "float64", "shape": [2]}}
    assert found["only_b"] == {"more": {"dtype": "float64", "shape": [3]}}
    assert found["moved"] == [{"a": "old", "b": "new", "dtype": "int64", "shape": [3]}]
    assert [(leaf["name"], leaf["kind"]) for leaf in found["changed"]] == [
        ("shape", "shape"),
        ("kernel", "values"),
        ("zero", "bits"),  # as far as the next one: in the order of the file
        ("cast", "dtype"),
    ]
    assert found["changed"][1] == {
        **{"name": "kernel", "kind": "values", "relative_l2": 0.25, "max_abs": 0.25},
        **{"a": {"dtype": "float32", "shape": [2, 8]}, "b": {"dtype": "float32", "shape": [2, 8]}},
        **{"cosine": 1.0, "differing": 16},
    }
    assert found["changed"][2]["cosine"] == "nan"
    assert (found["worst"], found["identical"], found["identical_leaves"]) == (0.25, False, 1)


def test_steps_of_a_store(store):
    output = run(store, store, "--step-a", 1, "--step-b", "best:loss").output
    assert "epoch  int 1 -> int 3\n" in output
    assert "identical: 2 leaves\n" in output
    found = as_json(store, store, "--step-a", 1)
    assert found["worst"] == 2
    assert as_json(store, store)["identical"]
    assert run(store, store).output.endswith("identical: 4 leaves, all there are\n")
    [epoch, _] = found["changed"]
    assert epoch["a"] == {"type": "int", "value": 1}


def test_rename(files):
    a, b = files
    found = as_json(a, b, "--rename", "gone\x1b=more", "--rename", "old=new")
    assert (found["only_a"], found["only_b"], found["moved"]) == ({}, {}, [])
    assert found["identical_leaves"] == 2


def test_fail_above(tmp_path):
    for name, value in (("a", 1), ("b", 1.5), ("c", 1)):
        save_file({"x" if name < "c" else "y": np.full(4, value, np.float32)}, tmp_path / name)
    a, b, c = (tmp_path / name for name in "abc")
    assert run(a, a, "--fail-above", 0).exit_code == 0
    assert run(a, b, "--fail-above", 0.5).exit_code == 0
    finished = run(a, b, "--fail-above", 0.49)
    assert finished.exit_code == DIFFERENT == 9
    assert "relative L2" in finished.output
    assert run(a, c, "--fail-above", 100).exit_code == DIFFERENT
    assert run(a, c, "--fail-above", 100, "--rename", "x=y").exit_code == 0
    finished = run(a, b, "--fail-above", 0, "--json")
    assert finished.exit_code == DIFFERENT
    assert json.loads(finished.output)["worst"] == 0.5


def test_mistakes(tmp_path, store):
    save_file({"x": np.zeros(1)}, tmp_path / "x")
    for arguments, message in [
        ((tmp_path / "x", store, "--step-a", 1), "--step-a is for stores"),
        ((store, tmp_path / "x", "--step-b", 1), "--step-b is for stores"),
        ((tmp_path / "x", store, "--rename", "x"), "--rename takes OLD=NEW, found 'x'"),
        ((tmp_path / "x", store, "--fail-above", "nan"), "takes a number from 0 on, found nan"),
        ((tmp_path / "x", store, "--fail-above", "-1"), "takes a number from 0 on, found -1"),
    ]:
        finished = run(*arguments)
        assert finished.exit_code == 2
        assert message in finished.output
    for arguments, error in [
        ((tmp_path / "x", tmp_path / "nothing"), milepost.errors.PathNotFoundError),
        ((store, store, "--step-b", 9), milepost.errors.StepNotFoundError),
        ((tmp_path / "x", store, "--rename", "y=z"), milepost.errors.UsageError),
    ]:
        assert isinstance(run(*arguments).exception, error)


def test_on_a_terminal_a_bar_shows_how_far_it_is(tmp_path):
    pty = pytest.importorskip("pty")
    import os
    import subprocess
    import sys

    save_file({"x": np.zeros(9 << 20)}, tmp_path / "x")
    program = "from milepost.cli.diff import diff; diff()"
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", program, str(tmp_path / "x"), str(tmp_path / "x")]
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=follower, check=True)
    os.close(follower)
    shown = os.read(leader, 1 << 16).decode()
    os.close(leader)
    assert "reading" in shown
    assert "151.0 MB" in shown
    assert b"reading" not in finished.stdout
    assert finished.stdout.endswith(b"all there are\n")
