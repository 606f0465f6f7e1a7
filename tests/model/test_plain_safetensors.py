"""What milepost writes is plain safetensors: every other reader opens the same file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from torch import nn

import milepost
from milepost import save_model


def model() -> nn.Module:
    torch.manual_seed(0)
    shared = nn.Linear(4, 4)
    return nn.Sequential(
        nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(12, 4), shared, shared
    ).eval()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_model(
        model(),
        tmp_path / "model.safetensors",
        example=torch.ones(2, 4, 3),
        labels=["a", "b", "c", "d"],
        metadata={"n": 1},
    )
    return tmp_path / "model.safetensors"


def test_safe_open(path: Path):
    with safetensors.safe_open(path, "pt") as file:
        assert set(file.keys()) == {n for n in model().state_dict() if not n.startswith("5.")}
        assert set(file.metadata()) == {"format", "milepost"}
        assert file.metadata()["format"] == "pt"
        assert torch.equal(file.get_slice("3.weight")[1:2], model()[3].weight[1:2])


def test_load_state_dict(path: Path):
    """As it is written down for any PyTorch model, strictly."""
    whole = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.LSTM(8, 2)).half()
    save_model(whole, path, labels=["a"])
    other = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.LSTM(8, 2)).half()
    result = other.load_state_dict(safetensors.torch.load_file(path))
    assert result.missing_keys == result.unexpected_keys == []
    assert all(
        torch.equal(a, b) for a, b in zip(other.parameters(), whole.parameters(), strict=True)
    )


def test_what_is_shared_is_there_once(path: Path):
    other = model()
    for parameter in other.parameters():
        parameter.data.zero_()
    # safetensors' own function for models that share tensors.
    missing, unexpected = safetensors.torch.load_model(other, path)
    assert (missing, unexpected) == (set(), [])
    x = torch.rand(2, 4, 3)
    assert torch.equal(other(x), model()(x))


def test_readers_of_other_frameworks(path: Path):
    import safetensors.flax
    import safetensors.tensorflow

    expected = model()[3].weight.detach().numpy()
    for read in (
        safetensors.numpy.load_file,
        safetensors.flax.load_file,
        safetensors.tensorflow.load_file,
    ):
        assert np.array_equal(np.asarray(read(path)["3.weight"]), expected)


def test_models_of_other_frameworks_have_no_label_of_pytorch(tmp_path: Path):
    import jax

    milepost.register(double, name="double")
    save_model(jax.tree_util.Partial(double, jax.numpy.ones(3)), tmp_path / "model")
    with safetensors.safe_open(tmp_path / "model", "np") as file:
        assert set(file.metadata()) == {"milepost"}
        assert len(file.keys()) == 1


def double(weights: Any, x: Any) -> Any:
    return weights * x * 2


_UNET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
}
_AUTOENCODER = {"block_out_channels": [8], "norm_num_groups": 4, "sample_size": 8}


@pytest.mark.filterwarnings("ignore:.*Accessing config attribute:FutureWarning")
@pytest.mark.parametrize(
    ("name", "config"), [("UNet2DModel", _UNET), ("AutoencoderKL", _AUTOENCODER)]
)
def test_diffusers(tmp_path: Path, monkeypatch, name: str, config: dict[str, Any]):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import diffusers

    cls = milepost.register(getattr(diffusers, name))
    original = cls(**config)
    save_model(original, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": name, **config}))
    loaded = cls.from_pretrained(tmp_path, local_files_only=True)
    mine, theirs = original.state_dict(), loaded.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    with milepost.open(tmp_path) as snapshot:
        assert set(snapshot) == set(mine)
