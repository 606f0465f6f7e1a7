"""Restoring from files that milepost did not write: by the names that they have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import milepost
from milepost import errors


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def same(model, other):
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def saved():
    return network(1)


def test_a_torch_model_is_restored_from_a_safetensors_file(tmp_path, saved):
    save_file(saved.state_dict(), tmp_path / "m.safetensors")
    model = network()
    plan = milepost.Checkpoint(model=model).restore(tmp_path / "m.safetensors")
    assert plan.is_exact
    assert plan.step is None
    assert same(model, saved)


def test_what_lies_deeper_is_renamed(tmp_path, saved):
    tensors = {f"net.{name}": value for name, value in saved.state_dict().items()}
    save_file(tensors, tmp_path / "m.safetensors")
    model = network()
    checkpoint = milepost.Checkpoint(model=model)
    with pytest.raises(errors.RestoreRefusedError, match=r"net\.0\.weight"):
        checkpoint.restore(tmp_path / "m.safetensors")
    checkpoint.restore(tmp_path / "m.safetensors", rename={"net.": "model/"})
    assert same(model, saved)


def test_two_objects_with_the_same_names_need_a_rename(tmp_path, saved):
    save_file(saved.state_dict(), tmp_path / "m.safetensors")
    model, average = network(), network(2)
    before = {name: value.clone() for name, value in average.state_dict().items()}
    checkpoint = milepost.Checkpoint(model=model, average=average)
    with pytest.raises(errors.RestoreRefusedError, match="missing"):
        checkpoint.restore(tmp_path / "m.safetensors")
    checkpoint.restore(tmp_path / "m.safetensors", rename={"": "model/"}, only=["model"])
    assert same(model, saved)
    assert all(torch.equal(before[name], value) for name, value in average.state_dict().items())


def test_a_model_file_of_ours_is_a_source_too(tmp_path, saved):
    milepost.save_model(saved, tmp_path / "m.safetensors")
    model = network()
    milepost.Checkpoint(net=model).restore(tmp_path / "m.safetensors")
    assert same(model, saved)


def test_a_file_has_no_steps(tmp_path, saved):
    save_file(saved.state_dict(), tmp_path / "m.safetensors")
    with pytest.raises(errors.UsageError, match="step=3"):
        milepost.Checkpoint(model=network()).restore(tmp_path / "m.safetensors", step=3)


def test_nothing_is_changed_by_a_file_of_another_model(tmp_path):
    save_file({"0.weight": torch.ones(2, 2)}, tmp_path / "m.safetensors")
    model, same_model = network(), network()
    with pytest.raises(errors.RestoreRefusedError):
        milepost.Checkpoint(model=model).restore(tmp_path / "m.safetensors")
    assert same(model, same_model)


def test_arrays_are_restored_by_name(tmp_path):
    from safetensors.numpy import save_file as save_arrays

    save_arrays({"a/b": np.arange(4.0)}, tmp_path / "m.safetensors")
    checkpoint = milepost.Checkpoint(a={"b": np.zeros(4)})
    checkpoint.restore(tmp_path / "m.safetensors")
    assert checkpoint.a["b"].tolist() == [0, 1, 2, 3]
