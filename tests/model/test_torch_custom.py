"""What PyTorch models of classes of one's own keep when they are saved and loaded."""

from __future__ import annotations

import enum
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from milepost import errors, load_model, save_model


class Base(nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.width = width
        self.fc = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x):
        return self.norm(self.fc(x))


class Mode(str, enum.Enum):  # noqa: UP042 - as programs have it
    FAST = "fast"


def test_buffers_that_are_not_saved_keep_their_dtype(tmp_path):
    class Net(Base):
        def __init__(self, width: int = 4):
            super().__init__(width)
            self.register_buffer("ones", torch.ones(width) / 3, persistent=False)

        def forward(self, x):
            return self.fc(x * self.ones)

    x = torch.ones(1, 4, dtype=torch.float16)
    model = Net().half()
    save_model(model, tmp_path / "model")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        loaded = load_model(tmp_path / "model", custom_objects={"Net": Net})
    finally:
        torch.set_default_dtype(before)
    assert loaded.ones.dtype == torch.float16
    assert torch.equal(loaded(x), model(x))


def test_the_default_dtype_is_that_of_the_save(tmp_path):
    class Net(Base):
        def __init__(self):
            super().__init__()
            self.k = torch.tensor(1.0)

    save_model(Net(), tmp_path / "model")
    torch.set_default_dtype(torch.float64)
    try:
        loaded = load_model(tmp_path / "model", custom_objects={"Net": Net})
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert loaded.k.dtype == torch.float32


class Items(nn.Module):
    def __init__(self, items):
        super().__init__()
        self.items = items
        self.all = nn.ModuleList(items)

    def forward(self, x):
        for module in self.all:
            x = module(x)
        return x


def test_a_list_of_modules_with_a_repeat(tmp_path):
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    model = Items([a, b, a])
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={"Items": Items})
    assert loaded.items[2] is loaded.items[0] is loaded.all[0] is not loaded.all[1]
    assert torch.equal(loaded(torch.ones(1, 4)), model(torch.ones(1, 4)))


def test_parameters_in_a_list(tmp_path):
    class Net(Base):
        def __init__(self, width: int = 4):
            super().__init__(width)
            self.rows = [self.fc.weight]

    save_model(Net().half(), tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={"Net": Net})
    assert loaded.rows[0] is loaded.fc.weight
    assert loaded.fc.weight.dtype == torch.float16


class Taking(Base):
    def __init__(self, given):
        super().__init__()
        self.given = given


class Normalising(Base):
    def __init__(self, mode):
        super().__init__()
        self.mode = Mode(mode)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, "nan"),
        ([-0.0, [math.nan]], "[-0.0, [nan]]"),
        (torch.Size([2, 2]), "torch.Size([2, 2])"),
        (torch.float64, "torch.float64"),
        ((np.float64(0.1), np.int64(3), True), "(0.1, 3, True)"),
    ],
)
def test_arguments_that_come_out_the_same(tmp_path, value, expected):
    save_model(Taking(value), tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={"Taking": Taking})
    assert repr(loaded.given) == expected


def test_a_constructor_that_makes_the_member_of_its_value(tmp_path):
    save_model(Normalising("fast"), tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={"Normalising": Normalising})
    assert loaded.mode is Mode.FAST


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        self.b.weight = self.a.weight
        self.b.running_mean = self.a.running_mean

    def forward(self, x):
        return self.b(self.a(x))


def test_buffers_that_are_shared(tmp_path):
    known = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    known[1].running_mean = known[0].running_mean
    for model, (a, b) in ((Tied(), "ab"), (known, "01")):
        model(torch.randn(3, 4))
        save_model(model, tmp_path / "model")
        loaded = load_model(tmp_path / "model", custom_objects={"Tied": Tied})
        first, second = loaded.get_submodule(a), loaded.get_submodule(b)
        assert first.running_mean is second.running_mean
        assert first.running_var is not second.running_var
        assert torch.equal(first.running_mean, model.get_submodule(a).running_mean)


def test_what_was_parted_stays_apart(tmp_path):
    model = Tied().double()  # buffers are converted one by one
    assert model.a.running_mean is not model.b.running_mean
    model(torch.randn(3, 4).double())
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={"Tied": Tied})
    assert loaded.a.running_mean is not loaded.b.running_mean
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), loaded.buffers(), strict=True))

    model.b.weight = nn.Parameter(model.b.weight.detach() + 1)
    with pytest.raises(errors.UnsupportedObjectError, match="are two in the model, and one when"):
        save_model(model, tmp_path / "model")


def test_complex_parameters_go_on_learning(tmp_path):
    save_model(nn.Linear(2, 2, dtype=torch.complex64), tmp_path / "model")
    assert all(p.requires_grad for p in load_model(tmp_path / "model").parameters())


def test_saving_draws_no_random_numbers(tmp_path):
    class Drawing(Base):
        def __init__(self):
            super().__init__()
            random.random()
            np.random.rand()
            torch.rand(1, device="cpu")

    model = Drawing()
    before = random.getstate(), np.random.get_state()[2], torch.get_rng_state()
    save_model(model, tmp_path / "model")
    assert random.getstate() == before[0]
    assert np.random.get_state()[2] == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_a_constructor_that_reads_values(tmp_path):
    class Rates(nn.Module):
        def __init__(self, depth, rate):
            super().__init__()
            self.depth, self.rate = depth, rate
            rates = [x.item() for x in torch.linspace(0, rate, depth)]
            self.all = nn.Sequential(*[nn.Dropout(rate) for rate in rates])

    save_model(Rates(3, 0.5), tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={"Rates": Rates})
    assert [layer.p for layer in loaded.all] == [0, 0.25, 0.5]


def test_names_of_arguments_that_pytorch_uses_otherwise(tmp_path):
    class Net(Base):
        def __init__(this, bias=0.5, dtype=torch.float32, type="", _hidden=1):  # noqa: N805
            super().__init__()
            this.bias, this.dtype, this._hidden = bias, dtype, _hidden

    save_model(Net(0.25, torch.float64, _hidden=2), tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={"Net": Net})
    assert (loaded.bias, loaded.dtype, loaded._hidden) == (0.25, torch.float64, 2)


def test_a_model_that_is_compiled(tmp_path):
    inside, outside = Base(), Base()
    inside.compile(backend="eager")
    for model in (inside, torch.compile(outside, backend="eager"), outside):
        save_model(model.eval(), tmp_path / "model")
        loaded = load_model(tmp_path / "model", custom_objects={"Base": Base})
        assert type(loaded) is Base
        assert torch.equal(loaded.fc.weight, model.fc.weight)
