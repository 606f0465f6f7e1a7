"""What a reader wants to know is in the file, and nothing else."""

from __future__ import annotations

import getpass
import json
import socket

import pytest
import torch
from torch import nn

import milepost
from milepost import errors, save_model

TOLD = {
    "labels": ["cat", "dog"],
    "metrics": {"accuracy": torch.tensor(0.5)},
    "step": 7,
    "license": "apache-2.0",
    "notes": "Cats and *dogs*.",
}


def test_what_was_told_comes_back(tmp_path):
    report = save_model(nn.Linear(2, 2), tmp_path / "model", **TOLD)
    with milepost.open(tmp_path / "model") as snapshot:
        facts = snapshot.facts()
    assert {key: facts[key] for key in TOLD} == {**TOLD, "metrics": {"accuracy": 0.5}}
    assert report.captured == ("structure", "weights", *TOLD)


def test_a_metric_that_is_no_number_yet(tmp_path):
    save_model(nn.Linear(2, 2), tmp_path / "model", metrics={"loss": float("nan"), "n": 2**60})
    with milepost.open(tmp_path / "model") as snapshot:
        metrics = snapshot.facts()["metrics"]
    assert metrics["n"] == 2**60
    assert metrics["loss"] != metrics["loss"]
    assert "| loss | nan |" in milepost.model_card(tmp_path / "model")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": "cat"}, "labels must be a list"),
        ({"labels": 3}, "labels must be a list"),
        ({"metrics": {"a": "b"}}, "should be a number"),
        ({"step": 1.5}, "step must be a whole number"),
        ({"license": 3}, "license must be a text"),
        ({"notes": "\ud800"}, "notes must be a text"),
        ({"metadata": {"a": object()}}, "must be JSON values"),
        ({"program": True}, "needs example="),
    ],
)
def test_what_is_told_is_checked(tmp_path, wrong, message):
    with pytest.raises(errors.UsageError, match=message):
        save_model(nn.Linear(2, 2), tmp_path / "model", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_the_machine_or_the_person_is_in_the_file(tmp_path):
    save_model(nn.Linear(2, 2), tmp_path / "model", example=torch.ones(1, 2), **TOLD)
    data = (tmp_path / "model").read_bytes()
    for private in (str(tmp_path), socket.gethostname(), getpass.getuser(), "/home", "tests/"):
        assert private.encode() not in data


def test_the_report_tells_what_the_file_has(tmp_path):
    report = save_model(nn.Linear(2, 2), tmp_path / "model", example=torch.ones(1, 2))
    assert report.captured == ("structure", "weights", "example", "signature")
    assert (report.framework, report.leaves, report.lost, report.needs) == ("torch", 2, (), ())
    assert report.versions["torch"] == torch.__version__
    assert "has    structure, weights, example, signature" in str(report)


def test_what_is_lost_is_told_and_refused_when_strict(tmp_path):
    net = nn.Linear(2, 2)
    net(torch.ones(1, 2)).sum().backward()
    report = save_model(net, tmp_path / "model")
    [sentence] = report.lost
    assert "gradient" in sentence
    assert sentence in str(report)
    with milepost.open(tmp_path / "model") as snapshot:
        assert snapshot.facts()["lost"] == [sentence]
    before = (tmp_path / "model").read_bytes()
    with pytest.raises(errors.UnsupportedObjectError, match="gradient"):
        save_model(net, tmp_path / "model", strict=True)
    assert (tmp_path / "model").read_bytes() == before
    net.zero_grad()
    assert save_model(net, tmp_path / "model", strict=True).lost == ()


def test_a_card(tmp_path):
    save_model(nn.Linear(2, 2), tmp_path / "my.safetensors", example=torch.ones(1, 2), **TOLD)
    card = milepost.model_card(tmp_path / "my.safetensors")
    matter, body = card.removeprefix("---\n").split("---\n", 1)
    front = {key: json.loads(text) for key, text in (x.split(": ") for x in matter.splitlines())}
    assert front == {
        "license": "apache-2.0",
        "library_name": "pytorch",
        "tags": ["milepost", "safetensors"],
        "metrics": ["accuracy"],
    }
    for line in (
        "# my",
        "Cats and *dogs*.",
        "| parameters | 6 |",
        "| trained for | 7 steps |",
        "| input | float32 | `[?, 2]` |",
        "1. dog",
        "| accuracy | 0.5 |",
        "model = milepost.load_model('my.safetensors', replay=True)",
    ):
        assert line in body.splitlines(), card


def test_a_card_escapes_what_would_be_markup(tmp_path):
    save_model(nn.Linear(2, 2), tmp_path / "m", labels=["<b>", "a|b\n---"], metadata={"k|": "`x`"})
    card = milepost.model_card(tmp_path / "m")
    assert "0. \\<b\\>" in card
    assert "1. a\\|b ---" in card
    assert "| k\\| | \\`x\\` |" in card


def test_a_card_of_what_is_no_model(tmp_path):
    milepost.save_state(tmp_path / "store", {"a": 1})
    with pytest.raises(errors.UnknownFormatError, match="holds no model"):
        milepost.model_card(tmp_path / "store")
