"""A PyTorch model that would come out different is refused when it is saved."""

from __future__ import annotations

import collections
import functools
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from milepost import errors, load_model, save_model
from tests.model.test_torch_custom import Base, Mode, Taking


def made_with(set_up: Any) -> type[nn.Module]:
    """A class whose constructor hands its argument `given` to `set_up`, and keeps no more."""

    class Net(Base):
        def __init__(self, width: int = 4, given: Any = 1.0, **more: Any):
            super().__init__(width)
            set_up(self, more.get("given_too", given))

    return Net


def set_attribute(key: str, make: Any) -> Any:
    return lambda module, given: setattr(module, key, make(given))


Cell = collections.namedtuple("Cell", "value")

FORGETFUL = {
    "underscore": set_attribute("_scale", lambda x: x),
    "builtin": set_attribute("act", lambda x: torch.relu if x == 1 else torch.tanh),
    "method of tensors": set_attribute("act", lambda x: torch.Tensor.relu if x == 1 else abs),
    "ufunc": set_attribute("act", lambda x: np.sin if x == 1 else np.cos),
    "dict": set_attribute("options", lambda x: {"scale": [x]}),
    "tuple": set_attribute("pair", lambda x: (0, x)),
    "named tuple": set_attribute("cell", Cell),
    "deque": set_attribute("queue", lambda x: collections.deque([x])),
    "set": set_attribute("chosen", lambda x: {x}),
    "partial": set_attribute("act", lambda x: functools.partial(nn.functional.elu, alpha=x)),
    "closure": set_attribute("act", lambda x: lambda y: x * y),
    "tensor": set_attribute("k", torch.tensor),
    "tensors": set_attribute("k", lambda x: {"a": [torch.tensor(x)]}),
    "array": set_attribute("k", lambda x: np.full(2, x)),
    "object": set_attribute("config", lambda x: types.SimpleNamespace(scale=x)),
    "loose module": set_attribute("acts", lambda x: [nn.ELU(x)]),
    "buffer": lambda module, given: module.register_buffer(
        "k", torch.tensor(given), persistent=False
    ),
}


@pytest.mark.parametrize("how", FORGETFUL)
@pytest.mark.parametrize("name", ["given", "given_too"])
def test_an_argument_that_no_attribute_remembers(tmp_path, how, name):
    cls = made_with(FORGETFUL[how])
    with pytest.raises(errors.UnsupportedObjectError, match="comes out"):
        save_model(nn.Sequential(cls(**{name: 2.0})), tmp_path / "model")
    # With what the constructor makes anyway, the same class is no problem.
    model = cls().eval()
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={"Net": cls})
    x = torch.ones(1, 4)
    assert torch.equal(loaded(x), model(x))


def test_tensors_that_are_not_state_have_values(tmp_path):
    class Net(Base):
        def __init__(self, width: int = 4):
            super().__init__(width)
            self.tables = {"a": [torch.arange(width)]}

        def forward(self, x):
            return self.fc(x + self.tables["a"][0])

    model, x = Net(), torch.ones(1, 4)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={"Net": Net})
    assert torch.equal(loaded(x), model(x))


def test_what_cannot_be_compared(tmp_path):
    generator = set_attribute("source", lambda x: (i * x for i in range(3)))
    with pytest.raises(errors.UnsupportedObjectError, match="source=.*cannot be compared"):
        save_model(made_with(generator)(given=2.0), tmp_path / "model")

    class Whole(Base):  # all of its arguments are known, so it does the same again
        def __init__(self, width: int = 4):
            super().__init__(width)
            self.source = (i for i in range(3))

    save_model(Whole(), tmp_path / "model")


def test_random_values_that_are_not_state(tmp_path):
    cls = made_with(set_attribute("frequency", lambda x: torch.randn(3)))
    with pytest.raises(errors.UnsupportedObjectError, match="comes out with frequency="):
        save_model(cls(), tmp_path / "model")


def test_a_method_that_was_put_on_a_module(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].forward = types.MethodType(lambda self, x: x * 0, model[0])
    with pytest.raises(errors.UnsupportedObjectError, match="'0'.*no attribute 'forward'"):
        save_model(model, tmp_path / "model")


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2)


@pytest.mark.parametrize(
    ("make", "name", "where"),
    [(Base, "fc", "'fc'"), (encoder, "layers.1.linear1", "'layers.1.linear1'")],
)
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward"])
def test_hooks_of_any_part(tmp_path, make, name, where, kind):
    model = make()
    getattr(model.get_submodule(name), f"register_{kind}_hook")(lambda *arguments: None)
    with pytest.raises(errors.UnsupportedObjectError, match=f"{where}.* has hooks"):
        save_model(model, tmp_path / "model")


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_of_parameters(tmp_path, kind):
    model = Base()
    getattr(model.fc.weight, kind)(lambda gradient: None)
    with pytest.raises(errors.UnsupportedObjectError, match=r"'fc' \(Linear\) has hooks"):
        save_model(model, tmp_path / "model")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Cell(4), "'given' is Cell.*of the class Cell: expected a plain value"),
        (Mode.FAST, "given='fast' instead of <Mode.FAST"),
        ([Cell(1)], "'given.0' is Cell"),
    ],
)
def test_arguments_that_would_come_out_as_another_type(tmp_path, value, message):
    with pytest.raises(errors.UnsupportedObjectError, match=message):
        save_model(Taking(value), tmp_path / "model")


def test_a_part_that_stands_twice(tmp_path):
    inner = Base()
    model = nn.Sequential(inner, inner.norm)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={"Base": Base})
    assert loaded[1] is loaded[0].norm

    model[0].rows = [model[0].fc]
    with pytest.raises(errors.UnsupportedObjectError, match="no attribute 'rows'"):
        save_model(model, tmp_path / "model")


def test_parameters_over_the_same_memory(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight.data = model[0].weight.data.t()
    with pytest.raises(errors.UnsupportedObjectError, match=r"0.weight' and '1.weight.* memory"):
        save_model(model, tmp_path / "model")
    both = torch.randn(4, 8)
    model[0].weight.data, model[1].weight.data = both[:, ::2], both[:, 1::2]  # side by side
    save_model(model, tmp_path / "model")
    assert torch.equal(load_model(tmp_path / "model")[1].weight, model[1].weight)


def test_a_constructor_that_fails(tmp_path):
    class Asserting(Base):
        def __init__(self, width: int, heads: int = 3):
            assert width % heads == 0, "width % heads"
            super().__init__(width)

    with pytest.raises(
        errors.UnsupportedObjectError, match=r"module '0' \(Asserting\) raises Assert.*% heads"
    ):
        save_model(nn.Sequential(Asserting(4, 2)), tmp_path / "model")


def test_two_classes_of_one_name(tmp_path):
    model = nn.Sequential(made_with(lambda *_: None)(), made_with(lambda *_: None)())
    with pytest.raises(errors.UnsupportedObjectError, match="called 'Net' as well: rename one"):
        save_model(model, tmp_path / "model")
