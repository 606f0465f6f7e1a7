"""What a PyTorch module makes of an example."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from milepost.frameworks.torch.tensors import from_array
from milepost.undoing import undoing


def predict(model: nn.Module, inputs: Any) -> Any:
    """The outputs of a module in evaluation mode: a tuple is its arguments, a dict those by name.

    NumPy arrays become tensors; all go to the device of the module's first parameter, as
    copies, because some modules write into their inputs.
    """
    given = _tensors(inputs, _device(model))
    with evaluating(model), torch.no_grad():
        return call(model, given)


def call(model: nn.Module, given: Any) -> Any:
    """Call a module: a tuple is its arguments, a dict those by name."""
    if isinstance(given, tuple):
        return model(*given)
    return model(**given) if isinstance(given, dict) else model(given)


def surroundings(model: nn.Module) -> dict[str, str]:
    """On what the bits of its predictions depend, beside versions."""
    device = _device(model)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name}


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every part of the model in evaluation mode, and afterwards as it was."""
    before = [(part, part.training) for part in model.modules()]

    def put_back() -> None:
        for part, training in before:
            part.training = training

    with undoing(put_back):
        model.eval()
        yield


def _device(model: nn.Module) -> torch.device:
    tensors = [*model.parameters(), *model.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def _tensors(value: Any, device: torch.device) -> Any:
    if isinstance(value, np.ndarray):
        return from_array(value.copy()).to(device)
    if isinstance(value, torch.Tensor):
        return value.detach().to(device, copy=True)
    if type(value) in (list, tuple):
        return type(value)(_tensors(item, device) for item in value)
    if isinstance(value, dict):
        return {key: _tensors(item, device) for key, item in value.items()}
    return value
