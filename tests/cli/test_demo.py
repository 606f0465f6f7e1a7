"""`milepost demo`, on every backend."""

from __future__ import annotations

import os

import pytest

import milepost


@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.slow)])
def test_nothing_is_lost(cli, backend, tmp_path):
    result = cli("demo", "--backend", backend, "--json", "--folder", "digits").json
    assert result["backend"] == backend
    assert result["killed_with"] == -9
    assert result["unfinished_files"] == 1
    assert result["test_accuracy"] > 0.95
    assert result["same_predictions"] is True
    assert result["same_training"] is True
    assert [entry["epoch"] for entry in result["log"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert all(0 < entry["val_accuracy"] <= 1 for entry in result["log"])
    store = tmp_path / "digits" / "interrupted"
    assert milepost.verify(store) == []
    assert milepost.verify(tmp_path / "digits" / "interrupted-model") == []
    assert os.listdir(store / "partial") == []


@pytest.mark.slow
def test_what_it_shows(cli):
    """And the third backend."""
    out = cli("demo", "--backend", "torch").out
    for text in (
        "Killed (exit status -9) in the midst of writing the checkpoint of epoch 4",
        "the committed steps are 45, 90, 135",
        "epoch 8",
        "predicted",
        "test accuracy",
    ):
        assert text in out
    assert out.count("equal to the last bit") == 2
    assert "DIFFERENT" not in out


def test_a_missing_backend_names_the_command(run_program):
    finished = run_program(
        """
        import importlib.util, sys
        found = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *more: None if name == "jax" else found(name, *more)
        sys.argv = ["milepost", "demo", "--backend", "jax"]
        from milepost.cli import main
        main()
        """,
        status=2,
    )
    assert finished.stderr == (
        "milepost: the demo on jax needs jax, which this Python does not have: pip install jax\n"
    )


def test_a_folder_that_is_not_empty(cli, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    finished = cli("demo", "--folder", "mine")
    assert finished.status == 2
    assert "is not empty" in finished.err
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]
