"""JAX: pytrees of every kind, Optax states, random keys; Flax's TrainState."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import linen
from flax.core import FrozenDict
from flax.training.train_state import TrainState

import milepost
from milepost import Checkpoint, errors
from milepost.testing import FrameworkTests


class Parameters(NamedTuple):
    weight: Any
    bias: Any


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["scale", "offset"], meta_fields=["name"]
)
@dataclasses.dataclass
class Affine:
    scale: Any
    offset: Any
    name: str


@jax.tree_util.register_pytree_node_class
class Stack:
    def __init__(self, *layers):
        self.layers = layers

    def tree_flatten(self):
        return self.layers, len(self.layers)

    @classmethod
    def tree_unflatten(cls, count, layers):
        return cls(*layers)


class TestPytree(FrameworkTests):
    def make(self):
        return {
            "dict": {"w": jnp.arange(4.0), "x": {7: jnp.ones((2, 2)), 8: jnp.ones(1)}},
            "list": [jnp.zeros(3), (jnp.int32(1), None)],
            "named": Parameters(jnp.zeros(2), jnp.zeros(())),
            "dataclass": Affine(jnp.ones(2), jnp.zeros(2), "affine"),
            "node": Stack(jnp.zeros(2), {"inner": jnp.zeros(1)}),
            "frozen": FrozenDict({"w": jnp.zeros(2)}),
            "half": jnp.zeros(3, jnp.bfloat16),
        }

    def change(self, value):
        return jax.tree.map(lambda x: x + 1, value)


class TestKeys(FrameworkTests):
    def make(self):
        return {"one": jax.random.key(0), "many": jax.random.split(jax.random.key(1), (2, 3))}

    def change(self, value):
        return {
            "one": jax.random.split(value["one"])[0],
            "many": jax.random.split(value["many"][0, 0], (2, 3)),
        }


class TestOptax(FrameworkTests):
    transform = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.cosine_decay_schedule(0.1, 10)),
        optax.ema(0.9),
    )

    def make(self):
        return self.transform.init({"w": jnp.ones(3), "b": jnp.zeros(2)})

    def change(self, value):
        params = {"w": jnp.ones(3), "b": jnp.zeros(2)}
        return self.transform.update(jax.tree.map(jnp.ones_like, params), value, params)[1]


class TestTrainState(FrameworkTests):
    model = linen.Dense(3)

    def make(self):
        params = self.model.init(jax.random.key(0), jnp.ones((1, 2)))
        return TrainState.create(apply_fn=self.model.apply, params=params, tx=optax.adam(0.1))

    def change(self, value):
        return value.apply_gradients(grads=jax.tree.map(jnp.ones_like, value.params))


def test_a_restored_tree_is_an_attribute(tmp_path):
    params = {"w": jnp.arange(3.0)}
    Checkpoint(params=params).save(tmp_path)
    checkpoint = Checkpoint(params={"w": jnp.zeros(3)})
    checkpoint.restore(tmp_path)
    assert isinstance(checkpoint.params["w"], jax.Array)
    assert checkpoint.params["w"].tolist() == [0, 1, 2]
    assert checkpoint.params["w"].devices() == params["w"].devices()


def test_load_state_keeps_the_structure(tmp_path):
    tree = {"layers": [Parameters(jnp.ones(2), jnp.zeros(1)), None], "x": {3: (jnp.int32(4),)}}
    milepost.save_state(tmp_path, tree)
    like = jax.tree.map(jnp.zeros_like, tree)
    loaded = milepost.load_state(tmp_path, like=like)
    assert jax.tree.structure(loaded) == jax.tree.structure(tree)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), loaded, tree))
    plain = milepost.load_state(tmp_path)
    assert plain["layers"][0].weight.tolist() == [1, 1]
    assert plain["layers"][1] is None
    assert isinstance(plain["x"][3], tuple)


def test_what_a_tree_is_loaded_like_stays_as_it_is(tmp_path):
    milepost.save_state(tmp_path, {"w": jnp.ones(2), "n": [np.ones(2), (jnp.ones(1), 3)]})
    like = {"w": jnp.zeros(2), "n": [np.zeros(2), (jnp.zeros(1), 0)]}
    loaded = milepost.load_state(tmp_path, like=like)
    assert loaded["n"][0].tolist() == [1, 1]
    assert loaded["n"][1][1] == 3
    assert like["w"].tolist() == like["n"][0].tolist() == [0, 0]
    assert like["n"][1][1] == 0


def test_an_abstract_tree_is_something_to_restore_into(tmp_path):
    milepost.save_state(tmp_path, {"w": jnp.arange(4, dtype=jnp.bfloat16)})
    like = jax.eval_shape(lambda: {"w": jnp.zeros(4, jnp.bfloat16)})
    loaded = milepost.load_state(tmp_path, like=like)
    assert isinstance(loaded["w"], jax.Array)
    assert loaded["w"].dtype == ml_dtypes.bfloat16
    with pytest.raises(errors.UnsupportedObjectError, match="state/w is abstract"):
        milepost.save_state(tmp_path, like)


def test_a_sharded_array_keeps_its_sharding(tmp_path, run_program):
    run_program(
        """
        import jax, jax.numpy as jnp, milepost
        from jax.sharding import NamedSharding, PartitionSpec
        mesh = jax.make_mesh((4,), ("x",))
        sharding = NamedSharding(mesh, PartitionSpec("x"))
        array = jax.device_put(jnp.arange(8.0), sharding)
        milepost.save_state("store", {"a": array})
        loaded = milepost.load_state("store", like={"a": jnp.zeros_like(array)})
        assert loaded["a"].tolist() == list(range(8))
        like = {"a": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=sharding)}
        loaded = milepost.load_state("store", like=like)
        assert loaded["a"].sharding == sharding, loaded["a"].sharding
        """,
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )


def test_a_key_goes_on_with_its_own_generator(tmp_path):
    key = jax.random.key(3, impl="rbg")
    Checkpoint(key=key).save(tmp_path)
    checkpoint = Checkpoint(key=jax.random.key(0, impl="rbg"))
    checkpoint.restore(tmp_path)
    expected = jax.random.normal(key, (3,))
    assert (jax.random.normal(checkpoint.key, (3,)) == expected).all()
    with pytest.raises(errors.RestoreRefusedError, match="expected 'threefry2x32', found 'rbg'"):
        Checkpoint(key=jax.random.key(0)).restore(tmp_path)


def test_saving_inside_of_jit_says_what_is_wrong(tmp_path):
    @jax.jit
    def step(x):
        Checkpoint(x=x).save(tmp_path)
        return x

    with pytest.raises(errors.UnsupportedObjectError, match="x is being traced.*outside of jit"):
        step(jnp.ones(3))


def test_a_function_in_a_tree_says_which_leaf(tmp_path):
    with pytest.raises(errors.UnsupportedObjectError, match="params/activation is the function"):
        Checkpoint(params={"w": jnp.ones(2), "activation": jax.nn.swish}).save(tmp_path)


def test_arrays_of_numpy_in_a_tree_stay_numpy(tmp_path):
    Checkpoint(params={"a": np.ones(2), "b": jnp.ones(2)}).save(tmp_path)
    checkpoint = Checkpoint(params={"a": np.zeros(2), "b": jnp.zeros(2)})
    checkpoint.restore(tmp_path)
    assert isinstance(checkpoint.params["a"], np.ndarray)
    assert isinstance(checkpoint.params["b"], jax.Array)
