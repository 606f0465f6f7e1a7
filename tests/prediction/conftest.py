"""A classifier of small images, with its program, for every test of prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import milepost

LABELS = ["zero", "one", "two"]


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3), nn.Softmax(-1)]
    path = tmp_path_factory.mktemp("digits") / "digits.safetensors"
    model = nn.Sequential(*layers)
    milepost.save_model(model, path, example=torch.randn(2, 1, 8, 8), program=True, labels=LABELS)
    return path


@pytest.fixture(scope="session")
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((50, 1, 8, 8), "f")


@pytest.fixture(scope="session")
def expected(digits, x) -> np.ndarray:
    with torch.no_grad():
        return milepost.load_model(digits)(torch.from_numpy(x.copy())).numpy()
