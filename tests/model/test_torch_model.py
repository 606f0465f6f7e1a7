"""Whole PyTorch modules: rebuilt from what each says of itself, proved when they are saved."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import milepost
from milepost import errors, load_model, save_model

X = torch.linspace(-1, 1, 96).reshape(2, 3, 4, 4)


def round_trip(model, path, **options):
    save_model(model, path)
    return load_model(path, **options)


def conv() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
        nn.Softmax(dim=-1),
    )


def test_it_predicts_to_the_last_bit_as_before(tmp_path):
    model = conv()
    model(X)  # moves the running statistics
    model.eval()
    report = save_model(model, tmp_path / "model", metadata={"n": 1})
    assert report.framework == "torch"
    loaded = load_model(tmp_path / "model")
    assert torch.equal(loaded(X), model(X))
    assert repr(loaded) == repr(model)


def test_it_trains_on_from_where_it_was(tmp_path):
    model = conv()
    loaded = round_trip(model, tmp_path / "model")
    for module in (model, loaded):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            module(X).square().sum().backward()
            optimizer.step()
    state, other = model.state_dict(), loaded.state_dict()
    assert all(torch.equal(state[key], other[key]) for key in state)


def test_the_file_is_its_state_dict(tmp_path):
    model = conv()
    save_model(model, tmp_path / "model")
    other = conv()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert other.load_state_dict(load_file(tmp_path / "model")).missing_keys == []
    assert torch.equal(other[0].weight, model[0].weight)


MODULES = {
    "linear": lambda: nn.Linear(4, 2, bias=False),
    "embedding": lambda: nn.Embedding(10, 4, padding_idx=0, max_norm=1.0),
    "norms": lambda: nn.Sequential(
        nn.LayerNorm([4, 4], eps=1e-3), nn.GroupNorm(1, 3), nn.InstanceNorm2d(3, affine=True)
    ),
    "transposed": lambda: nn.ConvTranspose2d(3, 2, 3, stride=2, output_padding=1),
    "rnn": lambda: nn.RNN(4, 5, 2, nonlinearity="relu", batch_first=True),
    "lstm": lambda: nn.LSTM(4, 5, bidirectional=True, proj_size=2),
    "gru": lambda: nn.GRU(4, 5, dropout=0.1, num_layers=2),
    "cell": lambda: nn.LSTMCell(4, 5, bias=False),
    "attention": lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True, batch_first=True),
    "transformer": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True), 2
    ),
    "lists": lambda: nn.ModuleList([nn.Linear(2, 2), nn.ModuleDict({"a": nn.ReLU()})]),
    "named": lambda: nn.Sequential(nn.Sequential(), nn.Identity(), nn.Dropout(0.3)),
    "activations": lambda: nn.Sequential(
        nn.GELU("tanh"), nn.ELU(0.5), nn.PReLU(), nn.Hardtanh(-2, 2), nn.Threshold(0.1, 20)
    ),
    "shapes": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.PixelShuffle(2), nn.Upsample(scale_factor=2), nn.ZeroPad2d(1)
    ),
    "loss": lambda: nn.SmoothL1Loss(beta=0.3),
    "distance": lambda: nn.PairwiseDistance(1.0),
    "adaptive": lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10], 2.0, head_bias=True),
    "size": lambda: nn.Unflatten(1, torch.Size([2, 2])),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_of_torch(tmp_path, name):
    torch.manual_seed(1)
    model = MODULES[name]()
    loaded = round_trip(model, tmp_path / "model")
    assert type(loaded) is type(model)
    assert repr(loaded) == repr(model)
    state, other = model.state_dict(), loaded.state_dict()
    assert list(state) == list(other)
    assert all(torch.equal(state[key], other[key]) for key in state)
    save_model(loaded, tmp_path / "model")  # which is as good as the first


def test_modes_and_grad_flags(tmp_path):
    model = conv()
    model.eval()
    model[5].train()
    model[0].requires_grad_(False)
    loaded = round_trip(model, tmp_path / "model")
    assert [m.training for m in loaded.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in loaded.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(tmp_path, dtype):
    model = conv().to(dtype)
    loaded = round_trip(model, tmp_path / "model")
    assert {t.dtype for t in loaded.state_dict().values()} == {dtype, torch.int64}
    assert torch.equal(loaded[5].weight, model[5].weight)


def test_shared_modules_and_tied_parameters(tmp_path):
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 4, bias=False))
    model[3].weight = shared.weight
    loaded = round_trip(model, tmp_path / "model")
    assert loaded[0] is loaded[2]
    assert loaded[3].weight is loaded[0].weight
    assert torch.equal(loaded[0].weight, shared.weight)
    assert sorted(load_file(tmp_path / "model")) == ["0.bias", "0.weight"]
    assert milepost.verify(tmp_path / "model") == []


class Residual(nn.Module):
    def __init__(self, width: int, inner: nn.Module, scale: float = 1.0):
        super().__init__()
        self.width = width
        self.inner = inner
        self.scale = scale
        self.norm = nn.LayerNorm(width)
        self.register_buffer("offset", torch.arange(width) / width, persistent=False)

    def forward(self, x):
        return x + self.scale * self.inner(self.norm(x)) + self.offset


def test_a_class_of_ones_own(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(Residual(4, nn.Linear(4, 4), 0.5), nn.Linear(4, 2))
    report = save_model(model, tmp_path / "model")
    assert report.needs == ("Residual",)
    state = torch.get_rng_state()
    loaded = load_model(tmp_path / "model", custom_objects={"Residual": Residual})
    assert torch.equal(torch.get_rng_state(), state)
    x = torch.ones(3, 4)
    assert torch.equal(loaded(x), model(x))
    assert isinstance(loaded[0], Residual)


def test_a_class_that_the_loader_does_not_know(tmp_path):
    save_model(nn.Sequential(Residual(4, nn.Linear(4, 4))), tmp_path / "model")
    with pytest.raises(errors.UnknownClassError, match="module '0' is of the class 'Residual'"):
        load_model(tmp_path / "model")
    with pytest.raises(errors.UnknownClassError):
        load_model(tmp_path / "model", custom_objects={"Residual": lambda **_: nn.Linear(1, 1)})


class Forgetful(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, width)


class Lying(nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.width = 2
        self.table = nn.Parameter(torch.ones(width))


def hooked() -> nn.Module:
    model = nn.Linear(2, 2)
    model.register_forward_hook(lambda *arguments: None)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nn.Sequential(Forgetful(3)),
            r"the module '0' \(Forgetful\).*'width'.*self.width =",
        ),
        (lambda: Lying(3), "comes out with|comes out as"),
        (hooked, r"the model \(Linear\) has hooks"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused_with_the_ways_out(tmp_path, make, message):
    (tmp_path / "model").write_text("the model before")
    with pytest.raises(errors.UnsupportedObjectError, match=message) as caught:
        save_model(make(), tmp_path / "model")
    assert "save a Checkpoint" in str(caught.value)
    assert (tmp_path / "model").read_text() == "the model before"


def test_what_is_no_model(tmp_path):
    for thing in (torch.ones(3), {"a": 1}, torch.optim.SGD([torch.ones(1)]), None):
        with pytest.raises(
            errors.UnsupportedObjectError, match="expected a model of Keras, PyTorch or JAX"
        ):
            save_model(thing, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
