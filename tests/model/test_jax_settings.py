"""What JAX models have among their settings: records, scalars, and functions."""

from __future__ import annotations

import dataclasses
import enum
import subprocess
import sys
from collections import OrderedDict
from functools import cached_property
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import DenyList
from jax.sharding import PartitionSpec
from jax.tree_util import Partial

import milepost
from milepost import errors, load_model, save_model

X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


class Kind(enum.Enum):
    PRE = "pre"


class Level(enum.IntEnum):
    HIGH = 3


class Size(NamedTuple):
    width: Any
    depth: Any = 2


SIZE, HALF = Size(3), np.float64(0.5)


@dataclasses.dataclass(frozen=True)
class Config:
    kind: Kind = Kind.PRE
    size: Size = SIZE
    act: Any = jax.nn.gelu
    scale: Any = HALF

    @cached_property
    def area(self):
        return self.size.width * self.size.depth


class Settings(eqx.Module):
    value: Any
    fixed: Any = eqx.field(static=True, default=None)

    def __call__(self, x):
        return x


class Holder(nnx.Module):
    def __init__(self, config):
        self.config = config
        self.scale = 1 / np.sqrt(2)
        self.linear = nnx.Linear(3, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.linear(x) * self.scale


class Bound(nn.Module):
    config: Any
    kernel_init: Any = None

    @nn.compact
    def __call__(self, x):
        if self.kernel_init is None:
            return nn.Dense(3)(x)
        return x @ self.param("kernel", self.kernel_init, (3, 3))


def total(params, x):
    return x * sum(jax.tree.leaves(params))


KNOWN = (Kind, Level, Size, Config, Settings, Holder, Bound, total)
CLASSES = {thing.__name__: thing for thing in KNOWN}

SETTINGS = {
    "dataclass": Config(),
    "enum": Kind.PRE,
    "integer enum": Level.HIGH,
    "namedtuple": Size(np.int64(4), (1, None)),
    "scalar": np.float32(0.1),
    "low precision scalar": jnp.bfloat16.dtype.type(1.5),
    "range": range(0, 9, 2),
    "slice": slice(None, 3),
    "frozenset": frozenset({"a", "b", 3}),
    "partition": PartitionSpec("data", None),
    "ordered": OrderedDict(b=1, a=2),
}


def again(model, path, **example):
    save_model(model, path, **example)
    return load_model(path, custom_objects=CLASSES, replay=bool(example))


@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
@pytest.mark.parametrize("name", SETTINGS)
def test_settings(tmp_path, name):
    value = SETTINGS[name]
    nnx_model = again(Holder(value), tmp_path / "nnx", example=X)
    module = Bound(value)
    bound = module.bind(module.init(jax.random.key(0), X))
    linen = again(bound, tmp_path / "linen")
    equinox = again(Settings(1.0, value), tmp_path / "equinox")
    of_linen = (linen.unbind()[0].config, bound.unbind()[0].config)  # Linen freezes dicts
    for found, expected in ((nnx_model.config, value), of_linen, (equinox.fixed, value)):
        assert (type(found), found) == (type(expected), expected)
    assert (type(nnx_model.scale), nnx_model.scale) == (np.float64, 1 / np.sqrt(2))


def test_numbers_with_a_class_stay_of_it(tmp_path):
    loaded = again(Settings([np.float64(0.5), Level.HIGH]), tmp_path / "model")
    assert [type(part) for part in loaded.value] == [np.float64, Level]


def test_what_can_be_computed_again_is_no_obstacle(tmp_path):
    config = Config()
    assert config.area == 6
    assert again(Holder(config), tmp_path / "model").config.area == 6


def test_a_record_with_more_than_its_fields_is_refused(tmp_path):
    config = Config()
    object.__setattr__(config, "secret", 1)
    with pytest.raises(errors.UnsupportedObjectError, match="'config' in the model.*its fields"):
        save_model(Holder(config), tmp_path / "model")


@pytest.mark.parametrize("value", [Size(jnp.ones(2), jnp.ones(1)), OrderedDict(w=jnp.ones(2))])
def test_parameters_in_records(tmp_path, value):
    loaded = again(Partial(total, value), tmp_path / "model")
    assert jax.tree.structure(loaded) == jax.tree.structure(Partial(total, value))


def test_the_leaves_of_a_function_are_its_arguments(tmp_path):
    model = Partial(total, {"w": jnp.ones(3), "f": Partial(jnp.add, jnp.ones(3))})
    again(model, tmp_path / "model", example=X, program=True)
    assert list(milepost.open(tmp_path / "model")) == ["args/0/w", "args/0/f/args/0"]
    np.testing.assert_allclose(milepost.load_program(tmp_path / "model")(X), model(X))
    again(Partial(total, x=jnp.ones(1)), tmp_path / "model")
    assert list(milepost.open(tmp_path / "model")) == ["keywords/x"]


def test_a_bound_module_whose_other_collections_change(tmp_path):
    model = Bound(1).bind(Bound(1).init(jax.random.key(0), X), mutable=DenyList("params"))
    loaded = again(model, tmp_path / "model")
    assert loaded.scope.mutable == DenyList("params")


def ones(shape):
    return lambda key, *_: jnp.ones(shape)


def own_initialiser():
    module = Bound(1, kernel_init=ones((3, 3)))
    return module.bind(module.init(jax.random.key(0), X))


@pytest.mark.filterwarnings("ignore:carry_init is provided")
@pytest.mark.parametrize(
    ("text", "make"),
    [
        (
            "'cell/carry_init'",
            lambda: nnx.RNN(nnx.GRUCell(3, 4, carry_init=ones((2, 4)), rngs=nnx.Rngs(0))),
        ),
        ("'kernel_init'", own_initialiser),
    ],
)
def test_functions_that_still_have_work_to_do_are_not_lost(tmp_path, text, make):
    with pytest.raises(errors.UnsupportedObjectError, match=text):
        save_model(make(), tmp_path / "model")


def test_an_array_in_a_setting_that_has_the_name_of_a_leaf(tmp_path):
    model = Holder(1)
    model.linear.kernel.set_metadata("linear", 1)
    model.bias = nnx.Param(jnp.ones(3))
    model.weight = nnx.Param(jnp.ones(3), bias=jnp.full(3, 7.0))
    with pytest.raises(errors.UnsupportedObjectError, match="'weight/bias' in the model"):
        save_model(model, tmp_path / "model")


def test_inputs_that_would_come_back_as_something_else(tmp_path):
    def apply(state, x):
        return x

    milepost.register(apply, name="test_jax_settings.apply")
    with pytest.raises(errors.UnsupportedObjectError, match="inputs have a .*State"):
        save_model(
            Partial(apply),
            tmp_path / "model",
            example=(nnx.state(nnx.Linear(1, 1, rngs=nnx.Rngs(0))), X),
        )


class Untreelike(nnx.Module, pytree=False):
    def __init__(self):
        self.parts = {"a": nnx.Param(jnp.ones(1)), 2: nnx.Param(jnp.ones(1))}

    def __call__(self, x):
        return x


def test_what_the_framework_itself_cannot_take_apart(tmp_path):
    with pytest.raises(errors.UnsupportedObjectError, match="cannot be taken apart"):
        save_model(Untreelike(), tmp_path / "model")


SAVE_64 = """
import sys, jax
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp, milepost
from tests.model.test_jax_settings import Holder
model = Holder(1)
model.array = jnp.full(2, 1 / 3)
milepost.save_model(model, sys.argv[1])
"""


def test_64_bits_where_the_program_has_32(tmp_path):
    path = tmp_path / "model"
    done = subprocess.run(
        [sys.executable, "-c", SAVE_64, str(path)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert np.asarray(load_model(path, custom_objects=CLASSES).array).tolist() == [1 / 3, 1 / 3]
