"""Equinox: modules as pytrees; what is code stays the program's."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import milepost
from milepost import Checkpoint
from milepost.testing import FrameworkTests


class TestModule(FrameworkTests):
    def make(self):
        return eqx.nn.MLP(2, 3, 4, 2, activation=jax.nn.gelu, key=jax.random.key(0))

    def change(self, value):
        return jax.tree.map(lambda x: x + 1 if eqx.is_array(x) else x, value)


class TestTraining(FrameworkTests):
    transform = optax.adam(0.1)

    def make(self):
        model = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
        return {"model": model, "optimizer": self.transform.init(eqx.filter(model, eqx.is_array))}

    def change(self, value):
        def loss(model):
            return jax.vmap(model)(jnp.ones((3, 2))).sum()

        gradient = eqx.filter_grad(loss)(value["model"])
        updates, state = self.transform.update(gradient, value["optimizer"])
        return {"model": eqx.apply_updates(value["model"], updates), "optimizer": state}


class TestState(FrameworkTests):
    def make(self):
        norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="batch")
        return {"norm": norm, "state": state}

    def change(self, value):
        def run(x):
            return value["norm"](x, value["state"])

        batch = jnp.arange(12.0).reshape(4, 3)
        _, state = jax.vmap(run, axis_name="batch", out_axes=(0, None))(batch)
        return {"norm": value["norm"], "state": state}


def test_a_restored_module_predicts_as_before(tmp_path):
    model = eqx.nn.MLP(2, 3, 4, 2, key=jax.random.key(0))
    Checkpoint(model=model).save(tmp_path)
    other = eqx.nn.MLP(2, 3, 4, 2, key=jax.random.key(1))
    checkpoint = Checkpoint(model=other)
    assert checkpoint.restore(tmp_path).is_exact
    assert (checkpoint.model(jnp.ones(2)) == model(jnp.ones(2))).all()
    assert checkpoint.model.activation is other.activation


def test_names_read_like_the_module(tmp_path):
    Checkpoint(model=eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))).save(tmp_path)
    assert list(milepost.open(tmp_path).latest) == [
        "model/layers/0/weight",
        "model/layers/0/bias",
        "model/layers/1/weight",
        "model/layers/1/bias",
    ]
