"""What a PyTorch model has that its file has not: told, or refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from milepost import errors, load_model, save_model


def test_gradients_are_lost_and_told_of(tmp_path):
    model = nn.Linear(2, 2)
    assert save_model(model, tmp_path / "model", strict=True).lost == ()
    model(torch.ones(1, 2)).sum().backward()
    [sentence] = save_model(model, tmp_path / "model").lost
    assert "the gradients of 2 parameters" in sentence
    assert load_model(tmp_path / "model").weight.grad is None
    with pytest.raises(errors.UnsupportedObjectError, match="strict=True.*gradients"):
        save_model(model, tmp_path / "model", strict=True)


def test_what_is_around_a_model_is_lost_and_told_of(tmp_path):
    inner = nn.Linear(2, 2)
    for model in (nn.DataParallel(inner), torch.compile(inner, backend="eager")):
        [sentence] = save_model(model, tmp_path / "model").lost
        assert type(model).__name__ in sentence
        assert type(load_model(tmp_path / "model")) is nn.Linear


def test_a_lazy_module_that_has_not_run(tmp_path):
    model = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(errors.UnsupportedObjectError, match=r"'0' \(LazyLinear\).*run one batch"):
        save_model(model, tmp_path / "model")
    model(torch.ones(1, 3))
    save_model(model, tmp_path / "model")
    assert type(load_model(tmp_path / "model")[0]) is nn.Linear


def test_pruning_is_a_hook_that_can_be_made_permanent(tmp_path):
    model = nn.Linear(2, 2)
    prune.l1_unstructured(model, "weight", 0.5)
    with pytest.raises(errors.UnsupportedObjectError, match="has hooks.*prune.remove"):
        save_model(model, tmp_path / "model")
    prune.remove(model, "weight")
    save_model(model, tmp_path / "model")
    assert torch.equal(load_model(tmp_path / "model").weight, model.weight)


def test_an_example_that_the_model_writes_into(tmp_path):
    x = torch.linspace(-1, 1, 4)
    save_model(nn.Sequential(nn.ReLU(inplace=True)), tmp_path / "model", example=x)
    assert x[0] == -1
    load_model(tmp_path / "model", replay=True)


def test_a_wrapper_inside_of_a_model(tmp_path):
    for part in (nn.DataParallel(nn.Linear(2, 2)), torch.compile(nn.Linear(2, 2), backend="eager")):
        with pytest.raises(errors.UnsupportedObjectError, match="'0'.* is a wrapper inside"):
            save_model(nn.Sequential(part), tmp_path / "model")


def test_a_model_that_contains_itself(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2))
    model.append(model)
    with pytest.raises(errors.UnsupportedObjectError, match="contains itself"):
        save_model(model, tmp_path / "model")
