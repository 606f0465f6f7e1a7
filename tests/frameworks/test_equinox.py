"""Equinox: modules as pytrees; what is code stays the program's."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import milepost
from milepost import Checkpoint, errors
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


class Mixed(eqx.Module):
    """A module whose containers hold code beside arrays and numbers."""

    layers: list[Any]
    more: dict[str, Any]
    pair: tuple[Any, ...]
    pole: complex

    def __init__(self, seed: int = 0):
        first, second = jax.random.split(jax.random.key(seed))
        self.layers = [eqx.nn.Linear(2, 3, key=first), jax.nn.relu, [jnp.sin, jnp.ones(1) * seed]]
        self.more = {"f": jnp.tanh, "name": "more", "by": {1: 0.5 + seed, 2: "two"}, "none": {}}
        self.pair = (second, (2.0 + seed, 1j * seed), np.cos)
        self.pole = complex(seed, -0.0)


class TestMixed(FrameworkTests):
    def make(self):
        return Mixed()

    def change(self, value):
        return Mixed(int(value.pole.real) + 3)


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


def test_what_is_code_in_a_module_s_containers_stays_the_live_one_s(tmp_path):
    Checkpoint(model=Mixed(3)).save(tmp_path)
    assert list(milepost.open(tmp_path).latest) == [
        "model/layers/0/weight",
        "model/layers/0/bias",
        "model/layers/2/1",
        "model/more/by/1",
        "model/pair/0/data",
        "model/pair/0/generator",
        "model/pair/1/0",
        "model/pair/1/1",
        "model/pole",
    ]
    live = Mixed()
    live.layers[2][0] = live.more["f"] = jnp.exp
    live.more["name"] = "mine"
    checkpoint = Checkpoint(model=live)
    checkpoint.restore(tmp_path)
    model = checkpoint.model
    assert (model.layers[0].weight == Mixed(3).layers[0].weight).all()
    assert model.layers[1] is jax.nn.relu
    assert model.layers[2] == [jnp.exp, jnp.full(1, 3.0)]
    assert model.more == {"f": jnp.exp, "name": "mine", "by": {1: 3.5, 2: "two"}, "none": {}}
    assert model.pair[1:] == ((5.0, 3j), np.cos)
    assert repr(model.pole) == repr(complex(3, -0.0))
    assert isinstance(model.pole, complex)


def test_a_function_among_arrays_outside_of_a_module_is_still_refused(tmp_path):
    with pytest.raises(errors.UnsupportedObjectError, match="tree/1 is the function 'relu'"):
        Checkpoint(tree=[eqx.nn.Linear(2, 3, key=jax.random.key(0)), jax.nn.relu]).save(tmp_path)


def test_an_abstract_module_is_something_to_restore_into(tmp_path):
    milepost.save_state(tmp_path, Mixed(3))
    like = eqx.filter_eval_shape(Mixed)
    model = milepost.load_state(tmp_path, like=like)
    same = jax.tree.map(lambda a, b: bool(np.all(a == b)), model, Mixed(3))
    assert jax.tree.all(same), same


def test_a_module_that_a_state_is_loaded_like_stays_as_it_is(tmp_path):
    class Layers(eqx.Module):
        layers: list[Any]

    milepost.save_state(tmp_path, Layers([jnp.ones(1), 3]))
    like = Layers([jnp.zeros(1), 0])
    assert milepost.load_state(tmp_path, like=like).layers == [jnp.ones(1), 3]
    assert like.layers == [jnp.zeros(1), 0]
