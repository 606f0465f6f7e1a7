"""What research code does to its models, and what would be lost without a word."""

from __future__ import annotations

import enum
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import milepost
from milepost import errors, load_model, save_model
from tests.model.test_model_file import rewrite

X = torch.linspace(-1, 1, 8).reshape(2, 4)


class Mode(enum.Enum):
    FAST = "fast"


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x)


@milepost.register(name="test_torch_faithful.Keeping")
class Keeping(Base):
    def __init__(self, value, device="meta"):
        super().__init__()
        self.value, self.device = value, device


@milepost.register(name="test_torch_faithful.Emptying")
class Emptying(nn.Module):
    """Takes items out of what it is given."""

    def __init__(self, config, widths, **more):
        super().__init__()
        self.rate = config["rates"].pop()
        self.layers = nn.ModuleList()
        while len(widths) > 1:
            self.layers.append(nn.Linear(widths.pop(), widths[-1], bias=more.pop("bias", False)))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x * self.rate


def come_back(model, path, **options):
    save_model(model, path, example=X)
    return load_model(path, replay=True, **options)


def test_a_constructor_may_empty_what_it_is_given(tmp_path):
    loaded = come_back(Emptying({"rates": [0.5]}, [2, 3, 4], bias=True), tmp_path / "model")
    assert [layer.bias is None for layer in loaded.layers] == [False, True]
    come_back(loaded, tmp_path / "again")


@pytest.mark.parametrize(
    "value",
    [
        OrderedDict(b=1, a=[2]),
        {1, 2},
        frozenset("ab"),
        range(1, 9, 2),
        slice(None, 3),
        torch.device("cpu"),
        torch.exp,
    ],
    ids=lambda value: type(value).__name__,
)
def test_arguments_of_every_kind(tmp_path, value):
    found = come_back(Keeping(value), tmp_path / "model").value
    assert found == value
    assert type(found) is type(value)


def test_a_member_of_an_enum_is_itself(tmp_path):
    model = Keeping([Mode.FAST])
    loaded = come_back(model, tmp_path / "model", custom_objects={"Mode": Mode})
    assert loaded.value[0] is Mode.FAST
    for other in (str, enum.Enum("Mode", "SLOW")):
        with pytest.raises(errors.UnknownClassError, match="Mode|str"):
            load_model(tmp_path / "model", custom_objects={"Mode": other})


def test_a_method_of_an_object_is_no_function(tmp_path):
    with pytest.raises(errors.UnsupportedObjectError, match=r"argument 'value'.*upper"):
        save_model(Keeping("abc".upper), tmp_path / "model")


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_a_device_that_every_machine_has(tmp_path, device):
    assert come_back(Keeping(1, device), tmp_path / "model").device == device


def test_a_device_that_the_constructor_demands(tmp_path):
    class Placed(Base):
        def __init__(self, device):
            super().__init__()
            self.device = device

    save_model(Placed("cpu"), tmp_path / "model")
    assert load_model(tmp_path / "model", custom_objects={"Placed": Placed}).device == "cpu"


def strides(model):
    return {name: tensor.stride() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("kernel", [1, 3])
def test_tensors_lie_in_memory_as_they_did(tmp_path, kernel):
    model = nn.Sequential(nn.Conv2d(3, 8, kernel), nn.BatchNorm2d(8), nn.Conv2d(8, 8, kernel))
    model.to(memory_format=torch.channels_last)
    model[2].weight.data = model[2].weight.data.permute(1, 0, 3, 2)
    save_model(model, tmp_path / "model", example=torch.rand(1, 3, 8, 8))
    loaded = load_model(tmp_path / "model", replay=True)
    assert strides(loaded) == strides(model)
    assert loaded[0].weight.stride() != nn.Conv2d(3, 8, kernel).weight.stride()


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3, 4).t())


@pytest.mark.parametrize("change", [lambda weight: weight, torch.Tensor.contiguous])
def test_what_a_constructor_laid_out(tmp_path, change):
    model = Transposed()
    model.weight.data = change(model.weight.data)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={"Transposed": Transposed})
    assert strides(loaded) == strides(model)


@pytest.mark.parametrize(
    "hostile", [[0, 0], [1 << 70, 1], [-4, 1], [1], [1, 2, 3], [1.0, 4.0], "ab", None, {}, [[], []]]
)
def test_strides_that_are_none(tmp_path, hostile):
    model = nn.Sequential(nn.Linear(4, 4))
    save_model(model, tmp_path / "model")
    rewrite(tmp_path / "model", lambda b: b["structure"].update(strides={"0.weight": hostile}))
    try:
        loaded = load_model(tmp_path / "model")
    except errors.DamagedError:
        return
    assert torch.equal(loaded[0].weight, model[0].weight)
    assert loaded[0].weight.stride() == (4, 1)


def test_the_order_of_tensors(tmp_path):
    """An optimizer counts them."""
    model = parametrizations.weight_norm(nn.Linear(4, 4))
    parametrize.remove_parametrizations(model, "weight")
    assert list(model.state_dict()) == ["bias", "weight"]
    loaded = come_back(nn.Sequential(model), tmp_path / "model")
    assert [name for name, _ in loaded.named_parameters()] == ["0.bias", "0.weight"]
    assert list(loaded.state_dict()) == ["0.bias", "0.weight"]


class Noted(Base):
    def __init__(self):
        super().__init__()
        self.layer.weight.no_decay = True


def test_what_a_constructor_notes_on_a_parameter(tmp_path):
    save_model(Noted(), tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={"Noted": Noted})
    assert loaded.layer.weight.no_decay


def test_what_was_noted_on_a_parameter_later(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].weight.no_decay = True
    with pytest.raises(errors.UnsupportedObjectError, match=r"'0.weight'.*'no_decay'"):
        save_model(model, tmp_path / "model")


def test_a_lazy_module_that_has_run(tmp_path):
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    model(X)
    come_back(model, tmp_path / "model")


class Scale(nn.Parameter):
    """A parameter of a class of its own."""


class Scaled(Base):
    def __init__(self):
        super().__init__()
        self.scale = Scale(torch.ones(4))


def test_a_parameter_of_a_class_of_its_own(tmp_path):
    save_model(Scaled(), tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={"Scaled": Scaled})
    assert type(loaded.scale) is Scale


class Holder:
    """Holds a tensor, and does not say of what it consists."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce_ex__(self, protocol):
        raise TypeError

    def __eq__(self, other):
        return isinstance(other, Holder)

    def __hash__(self):
        return 0


class Holding(Base):
    def __init__(self):
        super().__init__()
        self.holder = Holder(self.layer.weight)

    def forward(self, x):
        return x @ self.holder.tensor


def test_a_tensor_that_is_held_where_nobody_sees_it(tmp_path):
    come_back(Holding(), tmp_path / "model", custom_objects={"Holding": Holding})


class Adapter(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.base(x) * self.scale


@pytest.mark.parametrize("name", ["linear1", "linear2"])
def test_an_adapter_in_a_transformer(tmp_path, name):
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    setattr(layer, name, Adapter(getattr(layer, name)))
    save_model(layer, tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={"Adapter": Adapter}).train()
    torch.manual_seed(0)
    expected = layer(X[None])
    torch.manual_seed(0)
    assert torch.equal(loaded(X[None]), expected)


def test_a_part_that_is_no_longer_what_its_class_makes(tmp_path):
    model = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8))
    model[0].self_attn = nn.Identity()
    with pytest.raises(errors.UnsupportedObjectError, match=r"'0'.*'embed_dim'.*Checkpoint"):
        save_model(model, tmp_path / "model")


@pytest.mark.parametrize(
    "argument",
    [
        {"enum": {"custom": "system", "module": "os", "qualname": "system", "member": "x"}},
        {"enum": {"class": "Linear", "member": "__init__"}},
        {"range": [1, 2, 0]},
        {"range": "ab"},
        {"slice": [1, 2, 3, 4]},
        {"device": "/etc/passwd"},
        {"ordered_dict": [[1]]},
        {"set": [{"list": []}]},
    ],
)
def test_hostile_arguments(tmp_path, argument):
    save_model(Keeping(1), tmp_path / "model")

    def change(body):
        body["structure"]["module"]["arguments"]["value"] = argument

    rewrite(tmp_path / "model", change)
    with pytest.raises(errors.MilepostError):
        load_model(tmp_path / "model")
