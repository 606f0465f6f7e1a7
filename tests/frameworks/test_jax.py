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


def test_an_array_of_64_bits_keeps_them_in_a_program_that_has_32(tmp_path):
    with jax.enable_x64(True):
        wide = {"a": [jnp.array([2**40, 3]), jnp.array(0.1)]}
        live = {"a": [jnp.zeros(2, jnp.int64)]}
    Checkpoint(t=wide).save(tmp_path)
    checkpoint = Checkpoint(t=live)
    checkpoint.restore(tmp_path)
    old, added = checkpoint.t["a"]
    assert (old.dtype, old.tolist()) == (jnp.int64, [2**40, 3])
    assert isinstance(added, jax.Array)
    assert (added.dtype, added.item()) == (jnp.float64, 0.1)


def test_what_was_free_to_move_to_other_devices_still_is(run_program):
    run_program(
        """
        import jax, jax.numpy as jnp, milepost
        from jax.sharding import NamedSharding, PartitionSpec
        from milepost import Checkpoint
        first, second, *_ = jax.devices()
        batch = NamedSharding(jax.make_mesh((4,), ("x",)), PartitionSpec("x"))
        with jax.default_device(second):
            there = {"w": jnp.ones(2), "k": jax.random.key(0)}
        free = {"w": jnp.ones((4, 2)), "k": jax.random.key(0), "lr": jnp.asarray(0.1)}
        bound = jax.device_put({"w": jnp.ones(2), "k": jax.random.key(0)}, second)
        tree = {"free": free, "bound": bound, "there": there}

        def check(tree):
            for part, committed in {"free": False, "there": False, "bound": True}.items():
                assert all(leaf.committed is committed for leaf in jax.tree.leaves(tree[part]))
            places = [jax.tree.leaves(tree[part])[0].devices() for part in tree]
            assert places == [{first}, {second}, {second}], places
            x = jax.device_put(jnp.ones((8, 4)), batch)
            jax.jit(lambda t, x: x @ t["w"] * t["lr"] + jax.random.normal(t["k"]))(tree["free"], x)

        checkpoint = Checkpoint(state=tree)
        check(checkpoint.state)
        checkpoint.save("store")
        checkpoint.restore("store")
        check(checkpoint.state)
        check(milepost.load_state("store", like=tree))
        """,
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )


def test_a_weakly_typed_array_stays_weakly_typed(tmp_path):
    tree = {"rate": jnp.asarray(0.1), "count": jnp.asarray(3), "many": 0.1 * jnp.arange(3)}
    assert all(leaf.weak_type for leaf in tree.values())
    milepost.save_state(tmp_path, tree)
    for like in (jax.tree.map(jnp.zeros_like, tree), jax.eval_shape(lambda: tree)):
        loaded = milepost.load_state(tmp_path, like=like)
        for name, leaf in tree.items():
            assert loaded[name].weak_type
            assert loaded[name].dtype == leaf.dtype
            assert loaded[name].tolist() == leaf.tolist()
    assert (loaded["rate"] * jnp.ones(1, jnp.bfloat16)).dtype == jnp.bfloat16


def test_a_weakly_typed_array_keeps_every_bit(tmp_path):
    signalling = np.array(0x7F800001, np.uint32).view(np.float32)
    Checkpoint(rate=jnp.asarray(signalling)).save(tmp_path)
    checkpoint = Checkpoint(rate=jnp.asarray(0.1))
    checkpoint.restore(tmp_path)
    assert checkpoint.rate.weak_type
    assert np.asarray(checkpoint.rate).view(np.uint32) == 0x7F800001


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_an_abstract_key_is_something_to_restore_into(tmp_path, impl):
    def make(seed=0):
        key = jax.random.key(seed, impl=impl)
        return {"one": key, "many": jax.random.split(key, (2, 3))}

    milepost.save_state(tmp_path, make(7))
    loaded = milepost.load_state(tmp_path, like=jax.eval_shape(make))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), loaded, make(7))
    assert same == {"one": True, "many": True}
    with pytest.raises(errors.UnsupportedObjectError, match="state/many/data is abstract"):
        milepost.save_state(tmp_path, jax.eval_shape(make))
    other = jax.eval_shape(lambda: {"one": jax.random.key(0, impl="unsafe_rbg")})
    with pytest.raises(errors.RestoreRefusedError, match="found"):
        milepost.load_state(tmp_path, like=other)


def test_arrays_whose_memory_was_given_away_are_restored(tmp_path):
    tree = {"a": jnp.arange(3.0), "rate": jnp.asarray(0.1)}
    Checkpoint(tree=tree).save(tmp_path)
    for leaf in tree.values():
        leaf.delete()  # as `donate_argnums` does
    Checkpoint(tree=tree).restore(tmp_path)
    assert tree["a"].tolist() == [0, 1, 2]
    assert tree["rate"].weak_type
