"""Flax NNX: modules, optimizers, metrics, random streams."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import milepost
from milepost import Checkpoint, errors
from milepost.testing import FrameworkTests


class Network(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.linear = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])
        self.again = self.linear

    def __call__(self, x):
        x = self.dropout(self.norm(self.linear(x)))
        for block in self.blocks:
            x = block(x)
        return x


def step(model, optimizer=None):
    gradient = nnx.grad(lambda m: m(jnp.ones((5, 3))).mean())(model)
    if optimizer is not None:
        optimizer.update(model, gradient)


class TestModule(FrameworkTests):
    def make(self):
        return Network(nnx.Rngs(0))

    def change(self, value):
        step(value, nnx.Optimizer(value, optax.sgd(0.1), wrt=nnx.Param))
        return value


class TestOptimizer(FrameworkTests):
    def make(self):
        model = Network(nnx.Rngs(0))
        return {"model": model, "optimizer": nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)}

    def change(self, value):
        step(value["model"], value["optimizer"])
        return value


class TestRngs(FrameworkTests):
    def make(self):
        return nnx.Rngs(0, dropout=1)

    def change(self, value):
        value.dropout()
        return value


class TestMetric(FrameworkTests):
    def make(self):
        return nnx.metrics.Average()

    def change(self, value):
        value.update(values=jnp.arange(3.0))
        return value


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=True)(nn.Dense(2)(x))


class TestLinen(FrameworkTests):
    def make(self):
        return Dense().bind(Dense().init(jax.random.key(0), jnp.ones((1, 3))))

    def change(self, value):
        module, variables = value.unbind()
        return module.bind(jax.tree.map(lambda x: x + 1, variables))


def test_names_read_like_the_module(tmp_path):
    Checkpoint(model=Network(nnx.Rngs(0))).save(tmp_path)
    names = list(milepost.open(tmp_path).latest)
    assert "model/blocks/0/kernel" in names
    assert "model/dropout/rngs/key/data" in names
    assert (
        sum(name.endswith("linear/kernel") for name in names)
        + sum(name.endswith("again/kernel") for name in names)
        == 1
    )  # shared, so saved once


def test_modules_are_restored_in_place(tmp_path):
    model = Network(nnx.Rngs(0))
    Checkpoint(model=model).save(tmp_path)
    expected = model.linear.kernel.get_value()
    other = Network(nnx.Rngs(1))
    kernel = other.linear.kernel
    Checkpoint(model=other).restore(tmp_path)
    assert other.linear.kernel is kernel
    assert (kernel.get_value() == expected).all()
    assert (model(jnp.ones((2, 3))) == other(jnp.ones((2, 3)))).all()


def test_paths_that_read_the_same_are_refused(tmp_path):
    module = nnx.Dict({"a/b": nnx.Param(jnp.ones(1)), "a": nnx.Dict(b=nnx.Param(jnp.zeros(1)))})
    with pytest.raises(errors.UnsupportedObjectError, match="two leaves have the name 'm/a/b'"):
        Checkpoint(m=module).save(tmp_path)


@pytest.mark.parametrize("inside", [False, True], ids=["a variable", "a module's"])
def test_a_variable_s_hooks_change_neither_what_is_saved_nor_what_is_restored(tmp_path, inside):
    class Hooked(nnx.Param):
        def get_value(self, **options):
            return super().get_value(**options) * 10

        def set_value(self, value, **options):
            super().set_value(value + 1, **options)

    saved, live = Hooked(jnp.full(2, 3.0)), Hooked(jnp.zeros(2))
    Checkpoint(v=nnx.Dict(v=saved) if inside else saved).save(tmp_path)
    Checkpoint(v=nnx.Dict(v=live) if inside else live).restore(tmp_path)
    assert live.get_raw_value().tolist() == [3, 3]


@pytest.mark.parametrize("inside", [False, True], ids=["a variable", "a module's"])
def test_a_variable_that_is_a_reference_is_restored_in_place(tmp_path, inside):
    saved, live = nnx.Param(jnp.ones(2), ref=True), nnx.Param(jnp.zeros(2), ref=True)
    reference = live.get_raw_value()
    Checkpoint(v=nnx.Dict(v=saved) if inside else saved).save(tmp_path)
    Checkpoint(v=nnx.Dict(v=live) if inside else live).restore(tmp_path)
    assert live.get_raw_value() is reference
    assert jax.device_get(reference[...]).tolist() == [1, 1]
