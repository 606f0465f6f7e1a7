"""Tensors of PyTorch modules that are computed from others."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import milepost
from milepost import errors, load_model, save_model

X = torch.linspace(-1, 1, 32).reshape(4, 8)


class Symmetric(nn.Module):
    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return self.scale * (x.triu() + x.triu(1).mT)


class RankOne(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.mix = nn.Linear(size, size)

    def forward(self, a, b):
        return self.mix(a.unsqueeze(-1) @ b.unsqueeze(-2))

    def right_inverse(self, z):
        return z[:, 0].clone(), z[0].clone()


class Normed(nn.Module):
    """One that parametrises itself."""

    def __init__(self, size: int = 8):
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.eye(size) + 0.1)
        parametrizations.orthogonal(self)
        self.last = parametrizations.weight_norm(nn.Linear(size, size))

    def forward(self, x):
        return self.last(x @ self.weight)


def both() -> nn.Module:
    model = nn.Linear(8, 8)
    parametrizations.spectral_norm(model, n_power_iterations=2)
    parametrize.register_parametrization(model, "weight", Symmetric(0.5))
    parametrizations.weight_norm(model, "bias", dim=None)
    return model


def registered(part: nn.Module, **options) -> nn.Module:
    model = nn.Linear(8, 8)
    parametrize.register_parametrization(model, "weight", part, **options)
    return model


def inside() -> nn.Module:
    model = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    parametrizations.weight_norm(model.linear1)
    parametrizations.orthogonal(model.linear2, orthogonal_map="cayley", use_trivialization=False)
    return nn.Sequential(model, Normed())


def one_more() -> nn.Module:
    model = Normed()
    parametrize.register_parametrization(model.last, "weight", Symmetric())
    return model


def on_a_buffer() -> nn.Module:
    model = nn.BatchNorm1d(8)
    parametrize.register_parametrization(model, "running_var", nn.Softplus(beta=2))
    return model


MODELS = {
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(8, 8), dim=1),
    "weight_norm of a convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 4)), parametrizations.weight_norm(nn.Conv1d(2, 3, 2))
    ),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(8, 8), eps=1e-3),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(8, 4)),
    "several": both,
    "of ones own": lambda: registered(Symmetric(2.0)),
    "unsafe": lambda: registered(RankOne(8), unsafe=True),
    "recurrent": lambda: parametrizations.weight_norm(nn.LSTMCell(8, 4), "weight_hh"),
    "inside of others": inside,
    "one more": one_more,
    "a buffer": on_a_buffer,
}
CUSTOM = {"Symmetric": Symmetric, "RankOne": RankOne, "Normed": Normed}


@pytest.mark.parametrize("name", MODELS)
def test_it_comes_back(tmp_path, name):
    torch.manual_seed(0)
    model = MODELS[name]()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):  # the tensors are not those of the beginning
        out = model(X)
        (out[0] if isinstance(out, tuple) else out).square().mean().backward()
        optimizer.step()
    save_model(model, tmp_path / "model", example=X)
    loaded = load_model(tmp_path / "model", custom_objects=CUSTOM, replay=True)
    assert repr(loaded) == repr(model)
    state, other = model.state_dict(), loaded.state_dict()
    assert list(state) == list(other)
    assert all(torch.equal(state[key], other[key]) for key in state)
    assert load_file(tmp_path / "model").keys() == state.keys()
    save_model(loaded, tmp_path / "model")  # which is as good as the first


def test_it_trains_on(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(both(), Normed())
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects=CUSTOM)
    for module in (model, loaded):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            module(X).square().sum().backward()
            optimizer.step()
    state, other = model.state_dict(), loaded.state_dict()
    assert all(torch.equal(state[key], other[key]) for key in state)


def test_what_it_needs(tmp_path):
    """What a constructor does by itself needs no mention; what was done afterwards does."""
    assert save_model(inside(), tmp_path / "model").needs == ("Normed",)
    assert save_model(both(), tmp_path / "model").needs == ("Symmetric",)
    with pytest.raises(errors.UnknownClassError, match="'Symmetric'.*not PyTorch's own"):
        load_model(tmp_path / "model")


def test_a_registered_class_that_is_parametrised(tmp_path):
    @milepost.register(name="test_parametrised.Net")
    class Net(nn.Module):
        def __init__(self, size, **options):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(size, options["rows"]))

    model = Net(3, rows=2)
    parametrizations.weight_norm(model)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert torch.equal(loaded.weight, model.weight)
    assert parametrize.type_before_parametrizations(loaded) is Net


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_older_functions_are_refused_with_the_newer(tmp_path, kind):
    model = nn.Sequential(getattr(torch.nn.utils, kind)(nn.Linear(4, 4)))
    with pytest.raises(errors.UnsupportedObjectError, match=f"'0'.*parametrizations.{kind} instea"):
        save_model(model, tmp_path / "model")
