"""PyTorch classes of one's own: registered, passed, or imported for the owner of the file."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import sys

import pytest
import torch
from torch import nn

import milepost
from milepost import errors, load_model, save_model

X = torch.linspace(-1, 1, 8).reshape(2, 4)


def scaled(x, by=2.0):
    return x * by


class Block(nn.Module):
    """Not registered; each argument is an attribute."""

    def __init__(self, width: int, act=scaled):
        super().__init__()
        self.width = width
        self.act = act
        self.layer = nn.Linear(width, width)

    def forward(self, x):
        return self.act(self.layer(x))


@milepost.register(name="test_torch_registered.Net")
class Net(nn.Module):
    """Keeps none of its arguments."""

    def __init__(self, width, /, *more, parts=(), options=None, norm=nn.Identity, **named):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.more = nn.ModuleList(more)
        self.parts = nn.ModuleList(parts)
        self.norm = norm(width)
        self.named = nn.ModuleDict(named)
        self.rate = (options or {}).get("rate", [1.0])[0]

    def forward(self, x):
        x = self.norm(self.first(x)) * self.rate
        for part in (*self.more, *self.parts, *self.named.values()):
            x = part(x)
        return x


@dataclasses.dataclass
class Config:
    width: int = 4
    depth: int = 1
    act: type[nn.Module] = nn.GELU
    parts: list[str] = dataclasses.field(default_factory=list)


@milepost.register(name="test_torch_registered.Options")
class Options:
    def __init__(self, rate, *more):
        self.inverse = 1 / rate
        self.more = more


class Configured(nn.Module):
    def __init__(self, config, options=None):
        super().__init__()
        self.config, self.options = config, options
        layers = [nn.Linear(config.width, config.width) for _ in range(config.depth)]
        self.all = nn.Sequential(*layers, config.act())

    def forward(self, x):
        return self.all(x)


def come_back(model, path, **options):
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.uniform_(parameter)
    report = save_model(model, path, example=X)
    loaded = load_model(path, replay=True, **options)
    assert repr(loaded) == repr(model)
    return loaded, report


MODELS = {
    "plain": lambda: Net(4),
    "*args": lambda: Net(4, nn.Linear(4, 4), nn.ReLU()),
    "a list of modules": lambda: Net(4, parts=[nn.Linear(4, 4), Net(4)]),
    "a dict": lambda: Net(4, options={"rate": [0.5, None], 3: (1, 2)}),
    "**kwargs": lambda: Net(4, a=nn.Linear(4, 4), b=Net(4, nn.Tanh())),
    "a class": lambda: Net(4, norm=nn.LayerNorm),
    "a class with arguments": lambda: Net(4, norm=functools.partial(nn.LayerNorm, eps=0.5)),
}


@pytest.mark.parametrize("how", MODELS)
def test_what_a_constructor_was_called_with_is_known(tmp_path, how):
    loaded, report = come_back(MODELS[how](), tmp_path / "model")
    assert report.needs == ("test_torch_registered.Net",)
    come_back(loaded, tmp_path / "model")


def test_modules_that_are_shared_between_arguments(tmp_path):
    layer = nn.Linear(4, 4)
    loaded, _ = come_back(Net(4, layer, parts=[layer], a=layer), tmp_path / "model")
    assert loaded.more[0] is loaded.parts[0] is loaded.named["a"]


def test_a_part_of_another_class_of_ones_own(tmp_path):
    model = Net(4, Block(4), Block(4, torch.tanh))
    loaded, report = come_back(model, tmp_path / "model", custom_objects=globals())
    assert loaded.more[0].act is scaled
    assert loaded.more[1].act is torch.tanh
    assert set(report.needs) == {"test_torch_registered.Net", "Block", "scaled"}


def test_a_configuration(tmp_path):
    config = Config(depth=2, act=nn.Tanh)
    config.parts.append("a")
    model = Configured(config, Options(0.5, 1, (2, None)))
    loaded, report = come_back(model, tmp_path / "model", custom_objects=globals())
    assert loaded.config == config
    assert (loaded.options.inverse, loaded.options.more) == (2, (1, (2, None)))
    assert set(report.needs) == {"Config", "Configured", "test_torch_registered.Options"}
    with pytest.raises(errors.UnknownClassError, match="'Config"):
        load_model(tmp_path / "model", custom_objects={"Configured": Configured})


def test_a_configuration_that_is_not_what_it_was_made_with(tmp_path):
    options = Options(0.5)
    options.inverse = 3
    with pytest.raises(errors.UnsupportedObjectError, match="comes out with options="):
        save_model(Configured(Config(), options), tmp_path / "model")


def test_a_function_as_an_activation(tmp_path):
    layer = nn.TransformerEncoderLayer(4, 2, 8, activation=scaled, batch_first=True)
    save_model(layer, tmp_path / "model", example=X)
    loaded = load_model(tmp_path / "model", custom_objects={"scaled": scaled}, replay=True)
    assert loaded.activation is scaled
    with pytest.raises(errors.UnknownClassError, match="needs the function 'scaled'"):
        load_model(tmp_path / "model")


def test_a_distance_without_a_name_is_refused(tmp_path):
    model = nn.TripletMarginWithDistanceLoss(distance_function=lambda a, b: (a - b).sum())
    with pytest.raises(errors.UnsupportedObjectError, match="'distance_function' is <function"):
        save_model(model, tmp_path / "model")


def test_tensors_are_no_arguments(tmp_path):
    for value in (torch.ones(2), [nn.Parameter(torch.ones(2))]):
        model = Net(4, options={"rate": [1.0, value]})
        with pytest.raises(
            errors.UnsupportedObjectError, match=r"(?s)'options.rate.1.*make a tensor"
        ):
            save_model(model, tmp_path / "model")


def test_an_attribute_that_was_changed_is_refused(tmp_path):
    model = Net(4)
    model.rate = 3.0
    with pytest.raises(errors.UnsupportedObjectError, match=r"rate=1.0 instead of 3.0"):
        save_model(model, tmp_path / "model")


def test_a_registered_class_whose_constructor_is_another_by_now(tmp_path):
    @milepost.register(name="test_torch_registered.Changing")
    class Changing(nn.Module):
        def __init__(self, width=4):
            super().__init__()
            self.layer = nn.Linear(width, width)

    save_model(Changing(3), tmp_path / "model")

    class Later(nn.Module):
        def __init__(self, width=4, depth=2):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    with pytest.raises(errors.RestoreRefusedError, match=r"layers\.0"):
        load_model(tmp_path / "model", custom_objects={"test_torch_registered.Changing": Later})


def test_only_the_owner_of_a_file_has_it_import(tmp_path, monkeypatch):
    """`trust` imports what a file names; nothing else does."""
    (tmp_path / "module_of_mine.py").write_text("from torch import nn\nclass Own(nn.Linear): ...")
    monkeypatch.syspath_prepend(tmp_path)
    save_model(importlib.import_module("module_of_mine").Own(2, 3), tmp_path / "model")
    monkeypatch.delitem(sys.modules, "module_of_mine")
    with pytest.raises(errors.UnknownClassError, match="'Own', which is not PyTorch's own"):
        load_model(tmp_path / "model")
    assert "module_of_mine" not in sys.modules
    loaded = load_model(tmp_path / "model", trust=True)
    assert type(loaded) is sys.modules["module_of_mine"].Own


def test_what_cannot_be_imported(tmp_path):
    class Local(nn.Linear):
        pass

    save_model(Local(2, 2), tmp_path / "model")
    with pytest.raises(errors.UnknownClassError, match="'Local', which cannot be imported"):
        load_model(tmp_path / "model", trust=True)


def test_functions_of_one_name_are_told_apart(tmp_path):
    def other():
        def scaled(x):
            return x

        return scaled

    model = nn.Sequential(Block(4), Block(4, other()))
    with pytest.raises(errors.UnsupportedObjectError, match="'1'.*called 'scaled' as well"):
        save_model(model, tmp_path / "model")
