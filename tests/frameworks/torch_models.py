"""A small PyTorch model, and steps of its training, for the tests."""

from __future__ import annotations

import torch
from torch import nn


def make_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for step in range(steps):
        x = torch.linspace(-1, 1, 24).reshape(6, 4) * (step + 1)
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
