"""A file that proves itself: an example that a loaded model is checked by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import milepost
from milepost import errors, load_model, save_model


class Scaled(nn.Module):
    """A class whose code may change between saving and loading."""

    factor = 2.0

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return self.linear(x) * self.factor


class Halved(Scaled):
    """Other code under the same name, with the same leaves."""

    factor = 0.5


class Precise(Scaled):
    """The same but for the last digits."""

    factor = 2.0 * (1 + 2e-7)


CUSTOM = {"Scaled": Scaled}


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    save_model(Scaled(3), tmp_path / "model", example=torch.randn(4, 3))
    return tmp_path / "model"


def test_the_same_model_predicts_the_same_bits(saved):
    load_model(saved, custom_objects=CUSTOM, replay=True)
    again = milepost.replay(saved, custom_objects=CUSTOM)
    assert (again.difference, again.tolerance, again.reason) == (0, 0, "")
    assert str(again) == "equal to the last bit, tolerance 0"


def test_other_code_under_the_same_name_is_noticed(saved):
    load_model(saved, custom_objects={"Scaled": Halved})  # nobody asked
    for replay in (True, "close"):
        with pytest.raises(errors.DifferentPredictionError, match="outputs is off by") as caught:
            load_model(saved, custom_objects={"Scaled": Halved}, replay=replay)
        assert str(saved) in str(caught.value)
    assert caught.value.exit_status == 8


def test_last_digits_count_unless_a_tolerance_is_granted(saved):
    with pytest.raises(errors.DifferentPredictionError, match="Another kind of CPU"):
        load_model(saved, custom_objects={"Scaled": Precise}, replay=True)
    load_model(saved, custom_objects={"Scaled": Precise}, replay="close")
    close = milepost.replay(saved, custom_objects={"Scaled": Precise}, close=True)
    assert 0 < close.difference < 1e-5
    assert (close.tolerance, close.reason) == (1e-4, "asked for")


def test_another_version_is_granted_the_tolerance(saved, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "9.9")
    found = milepost.replay(saved, custom_objects={"Scaled": Precise})
    assert found.tolerance == 1e-4
    assert "torch 2.13" in found.reason
    assert "9.9 now" in found.reason
    with pytest.raises(errors.DifferentPredictionError, match=r"9\.9 now"):
        milepost.replay(saved, custom_objects={"Scaled": Halved})


def test_a_tolerance_of_the_callers(tmp_path):
    save_model(Scaled(3), tmp_path / "model", example=torch.randn(4, 3), tolerance=0.9)
    milepost.replay(tmp_path / "model", custom_objects={"Scaled": Halved}, close=True)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-9), (torch.float32, 1e-4), (torch.bfloat16, 3e-2), (torch.float16, 3e-2)],
)
def test_the_tolerance_is_the_dtypes(tmp_path, dtype, tolerance):
    net = nn.Linear(2, 2, dtype=dtype)
    save_model(net, tmp_path / "model", example=torch.ones(1, 2, dtype=dtype))
    assert milepost.replay(tmp_path / "model", close=True).tolerance == tolerance


def test_training_mode_and_random_numbers_are_as_before(tmp_path):
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3)).train()
    net[1].eval()
    statistics = net[2].running_mean.clone()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    save_model(net, tmp_path / "model", example=torch.randn(4, 3, generator=torch.Generator()))
    assert torch.equal(torch.rand(4), expected)
    assert [part.training for part in net.modules()] == [True, True, False, True]
    assert torch.equal(net[2].running_mean, statistics)
    torch.manual_seed(3)
    load_model(tmp_path / "model", replay=True)
    assert torch.equal(torch.rand(4), expected)


def test_the_signature_tells_which_sizes_may_vary(saved):
    with milepost.open(saved) as snapshot:
        facts = snapshot.facts()
    assert facts["inputs"] == [{"name": "input", "dtype": "float32", "shape": [None, 3]}]
    assert facts["outputs"] == [{"name": "output", "dtype": "float32", "shape": [None, 3]}]
    assert facts["example"] is True


class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(2, 3).sum(0)


def test_a_model_of_one_batch_size_has_a_fixed_signature(tmp_path):
    save_model(Fixed(), tmp_path / "model", example=torch.ones(2, 3))
    with milepost.open(tmp_path / "model") as snapshot:
        assert snapshot.facts()["inputs"][0]["shape"] == [2, 3]
        assert snapshot.facts()["outputs"][0]["shape"] == [3]


class Several(nn.Module):
    def forward(self, a, b=None, *, scale=1.0):
        total = a if b is None else a + b["deep"][0]
        return {"sum": total * scale, "parts": (a, scale), "none": None}


@pytest.mark.parametrize(
    ("example", "names"),
    [
        ((torch.ones(2, 3), {"deep": [torch.ones(2, 3)]}), ["0", "1/deep/0"]),
        ({"a": torch.ones(2, 3), "scale": 2.0}, ["a", "scale"]),
        (np.ones((2, 3), np.float32), ["input"]),
    ],
)
def test_arguments_by_position_and_by_name(tmp_path, example, names):
    save_model(Several(), tmp_path / "model", example=example)
    with milepost.open(tmp_path / "model") as snapshot:
        facts = snapshot.facts()
    assert [item["name"] for item in facts["inputs"]] == names
    assert [item["name"] for item in facts["outputs"]] == ["sum", "parts/0", "parts/1", "none"]
    assert facts["outputs"][2] == {"name": "parts/1", "dtype": "float", "shape": None}
    load_model(tmp_path / "model", custom_objects={"Several": Several}, replay=True)


def test_the_tensors_of_the_file_are_the_models_own(saved):
    from safetensors.torch import load_file

    Scaled(3).load_state_dict(load_file(saved))


def test_no_example_to_replay(tmp_path):
    save_model(nn.Linear(2, 2), tmp_path / "model")
    with pytest.raises(errors.UsageError, match="has no example to replay"):
        load_model(tmp_path / "model", replay=True)
    with pytest.raises(errors.UsageError, match="replay must be"):
        load_model(tmp_path / "model", replay="exact")


def test_an_example_too_large_for_a_header(tmp_path):
    with pytest.raises(errors.UsageError, match="give fewer rows"):
        save_model(nn.Linear(1, 1), tmp_path / "model", example=torch.ones(6 << 20, 1))
    assert list(tmp_path.iterdir()) == []


def test_an_example_that_is_none_of_ours(tmp_path):
    with pytest.raises(errors.UnsupportedObjectError, match="the example's inputs is a"):
        save_model(nn.Linear(1, 1), tmp_path / "model", example=object())


def test_an_example_that_the_model_does_not_take(tmp_path):
    with pytest.raises(errors.UsageError, match="does not take the example: RuntimeError: mat1"):
        save_model(nn.Linear(2, 2), tmp_path / "model", example=torch.ones(2, 3))
    assert list(tmp_path.iterdir()) == []


def test_custom_objects_that_are_no_mapping(saved):
    with pytest.raises(errors.UsageError, match="must map names to classes"):
        load_model(saved, custom_objects=[Scaled])


class Nan(nn.Module):
    def forward(self, x):
        return torch.stack([x / 0, x * float("nan"), -x])


def test_outputs_that_are_no_numbers(tmp_path):
    save_model(Nan(), tmp_path / "model", example=torch.ones(2))
    custom = {"Nan": Nan}
    assert milepost.replay(tmp_path / "model", custom_objects=custom).difference == 0
