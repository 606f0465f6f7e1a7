"""Whole models of JAX: what is saved comes back, and what cannot is refused when it is saved."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

import milepost
from milepost import Checkpoint, errors, load_model, save_model

X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


class Network(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs, act: Any = nnx.relu):
        self.first = nnx.Linear(3, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.again = self.first
        self.tied = self.first.kernel
        self.act = act
        self.scale = jnp.array(2.0)

    def __call__(self, x):
        x = self.act(self.dropout(self.norm(self.first(x))))
        return self.again(x) @ self.tied * self.scale


class Dense(nn.Module):
    width: int = 4
    act: Any = nn.relu
    norm: Any = functools.partial(nn.LayerNorm, epsilon=1e-3)

    @nn.compact
    def __call__(self, x, train=False):
        x = self.norm()(nn.Dense(self.width)(x))
        return nn.Dropout(0.5, deterministic=not train)(self.act(x))


class Block(eqx.Module):
    layers: list[Any]
    act: Any
    power: float
    name: str = eqx.field(static=True)

    def __init__(self, act=jnp.tanh, name="block"):
        self.layers = [eqx.nn.Linear(3, 3, key=jax.random.key(0)), eqx.nn.Dropout(0.5)]
        self.act, self.power, self.name = act, 2.0, name

    def __call__(self, x):
        for layer in self.layers:
            x = self.act(layer(x))
        return x**self.power


def affine(params, x):
    return x @ params["w"] + params["b"]


PARAMS = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
CLASSES = {"Network": Network, "Dense": Dense, "Block": Block, "affine": affine}


def bound(module=None, **bind):
    module = module or Dense()
    return module.bind(module.init(jax.random.key(0), X), **bind)


MODELS = {
    "nnx": lambda: (Network(rngs=nnx.Rngs(0)), X),
    "linen": lambda: (bound(), {"x": X, "train": False}),
    "equinox": lambda: (Block(), X[0]),
    "function": lambda: (Partial(affine, PARAMS), X),
}
LOAD = """
import sys, milepost
from tests.model import test_jax_model as t
for path in sys.argv[1:]:
    milepost.load_model(path, custom_objects=t.CLASSES, replay=True)
    try:
        milepost.load_model(path)
    except milepost.errors.UnknownClassError as error:
        print(error)
"""


def test_a_fresh_process_loads_models_if_it_is_given_the_classes(tmp_path):
    needs = []
    for kind, make in MODELS.items():
        model, x = make()
        needs += save_model(model, tmp_path / kind, example=x).needs
    arguments = [sys.executable, "-c", LOAD, *(str(tmp_path / kind) for kind in MODELS)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert needs == ["Network", "Dense", "Block", "affine"]
    for name in needs:
        assert f"The file needs: {name}" in done.stdout


@pytest.mark.parametrize("kind", MODELS)
def test_trust_imports_what_the_file_names(tmp_path, kind):
    model, x = MODELS[kind]()
    save_model(model, tmp_path / "model", example=x)
    load_model(tmp_path / "model", trust=True, replay=True)


def test_what_an_nnx_model_shares_and_how_it_goes_on(tmp_path):
    model = Network(rngs=nnx.Rngs(0))
    save_model(model, tmp_path / "model", example=X)
    loaded = load_model(tmp_path / "model", custom_objects=CLASSES, replay=True)
    assert loaded.again is loaded.first
    assert loaded.tied is loaded.first.kernel
    assert not loaded.dropout.deterministic
    assert nnx.graphdef(loaded) == nnx.graphdef(model)
    assert (loaded(X) == model(X)).all()  # with the same dropout, and the same new statistics
    assert (loaded.norm.mean[...] == model.norm.mean[...]).all()
    assert (loaded(X) == model(X)).all()


class Odd(nnx.Module):
    """What NNX lets a module hold beside parameters."""

    class Mine(nnx.Param):
        pass

    def __init__(self, *, rngs: nnx.Rngs):
        self.mine = Odd.Mine(jnp.ones(3), ref=True)
        self.half = nnx.Param(jnp.ones(3, jnp.bfloat16))
        self.number = nnx.Param(3.0)
        self.several = nnx.Variable((jnp.ones(2), {"z": jnp.zeros(1)}))
        self.key, self.array = jax.random.key(4), np.arange(3.0, dtype=np.float32)
        self.itself = self
        self.pair = nnx.data((nnx.Linear(3, 3, rngs=rngs), {1: nnx.Linear(3, 3, rngs=rngs)}))
        self.rngs = rngs

    def __call__(self, x):
        x = self.pair[1][1](self.pair[0](x)) * self.mine[...] * self.number.get_value()
        return x + self.array


def test_odd_parts_of_an_nnx_model(tmp_path):
    save_model(Odd(rngs=nnx.Rngs(0, dropout=2)), tmp_path / "model", example=X)
    classes = {"Odd": Odd, "Mine": Odd.Mine}
    loaded = load_model(tmp_path / "model", custom_objects=classes, replay=True)
    assert loaded.itself is loaded
    assert type(loaded.mine) is Odd.Mine
    assert isinstance(loaded.mine.get_raw_value(), jax.Ref)
    assert isinstance(loaded.array, np.ndarray)
    assert loaded.half.dtype == jnp.bfloat16
    assert (loaded.key, loaded.number.get_value()) == (jax.random.key(4), 3.0)
    assert loaded.rngs.dropout() == nnx.Rngs(0, dropout=2).dropout()


def test_an_example_changes_no_nnx_model(tmp_path):
    model = Network(rngs=nnx.Rngs(0))
    before = jax.tree.leaves(nnx.state(model, nnx.BatchStat))
    save_model(model, tmp_path / "model", example=X)
    assert not model.norm.use_running_average
    after = jax.tree.leaves(nnx.state(model, nnx.BatchStat))
    assert all(jax.tree.map(lambda a, b: bool((a == b).all()), before, after))


def test_registered_classes_need_not_be_passed(tmp_path):
    class Mine(nnx.Module):
        def __init__(self, *, rngs):
            self.linear = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            return self.linear(x)

    class MyDense(Dense):
        pass

    class MyBlock(Block):
        pass

    for cls in (Mine, MyDense, MyBlock):
        milepost.register(cls, name=f"test_jax_model.{cls.__name__}")
    for model, x in ((Mine(rngs=nnx.Rngs(0)), X), (bound(MyDense(3)), X), (MyBlock(), X[0])):
        report = save_model(model, tmp_path / "model", example=x)
        assert report.needs == (f"test_jax_model.{type(model).__name__}",)
        assert type(load_model(tmp_path / "model", replay=True)) is type(model)


def test_a_linen_model_unbinds_to_its_module_and_variables(tmp_path):
    module = Dense(5, act=nn.gelu)
    variables = module.init(jax.random.key(0), X)
    save_model(module.bind(variables), tmp_path / "model")
    loaded, values = load_model(tmp_path / "model", custom_objects=CLASSES).unbind()
    assert (loaded.width, loaded.act) == (5, nn.gelu)
    assert loaded.norm.keywords == {"epsilon": 1e-3}
    assert jax.tree.structure(values) == jax.tree.structure(variables)
    assert (loaded.apply(values, X) == module.apply(variables, X)).all()
    assert "params/Dense_0/kernel" in milepost.open(tmp_path / "model")


def test_linen_shares_what_is_shared(tmp_path):
    dense = nn.Dense(3)
    model = bound(nn.Sequential([dense, nn.tanh, dense]))
    save_model(model, tmp_path / "model", example=X)
    loaded = load_model(tmp_path / "model", replay=True)
    layers = loaded.unbind()[0].layers
    assert layers[0] is layers[2]


def test_a_bound_module_is_part_of_a_checkpoint(tmp_path):
    first, other = bound(), Dense().bind(jax.tree.map(jnp.zeros_like, bound().variables))
    Checkpoint(model=first).save(tmp_path)
    checkpoint = Checkpoint(model=other)
    assert checkpoint.restore(tmp_path).is_exact
    assert (checkpoint.model(X) == first(X)).all()
    assert not other(X).any()


def test_what_an_equinox_module_has(tmp_path):
    save_model(Block(jax.nn.silu, "mine"), tmp_path / "model", example=X[0])
    loaded = load_model(tmp_path / "model", custom_objects=CLASSES, replay=True)
    assert (loaded.act, loaded.power, loaded.name) == (jax.nn.silu, 2.0, "mine")
    assert jax.tree.structure(loaded) == jax.tree.structure(Block(jax.nn.silu, "mine"))
    assert loaded.layers[1].inference is False


def test_a_bound_method_is_known_by_its_name(tmp_path):
    module = Dense()
    milepost.register(module.apply, name="test_jax_model.apply")
    variables = module.init(jax.random.key(0), X)
    save_model(Partial(module.apply, variables), tmp_path / "model", example=X)
    assert load_model(tmp_path / "model", replay=True).func == module.apply


def inner():
    def inside(params, x=None):
        return x

    return inside


REFUSED = {
    "'act' in the model is the function": lambda: Network(rngs=nnx.Rngs(0), act=lambda x: x),
    "'layers/0/act' in the model": lambda: eqx.nn.Sequential([Block(inner())]),
    "milepost.register": lambda: Partial(inner(), PARAMS),
    "no variables": Dense,
    "random streams": lambda: bound(rngs={"dropout": jax.random.key(0)}),
    "expected a model": lambda: nnx.Rngs(0),
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused(tmp_path, text):
    with pytest.raises(errors.UnsupportedObjectError, match=text):
        save_model(REFUSED[text](), tmp_path / "model")


def test_a_static_array_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="static"):
        model = Block(name=np.ones(2))
    with pytest.raises(
        errors.UnsupportedObjectError, match="'name' in the model is an array where"
    ):
        save_model(model, tmp_path / "model")


def test_an_initialiser_of_one_s_own_is_lost_and_said_to_be(tmp_path):
    def ones(key, shape, dtype=jnp.float32):
        return jnp.ones(shape, dtype)

    model = bound(nn.Dense(3, kernel_init=ones, bias_init=nn.initializers.normal(0.5)))
    report = save_model(model, tmp_path / "model", example=X)
    assert report.lost == (
        "the initialiser kernel_init, which only matters when weights are made anew",
    )
    module, _ = load_model(tmp_path / "model", replay=True).unbind()
    assert module.kernel_init is nn.Dense(3).kernel_init
    assert module.bias_init.__closure__[0].cell_contents == 0.5
    with pytest.raises(errors.UnsupportedObjectError, match="kernel_init"):
        save_model(model, tmp_path / "model", strict=True)


@pytest.mark.parametrize("kind", MODELS)
def test_a_program_predicts_the_same(tmp_path, kind):
    model, x = MODELS[kind]()
    save_model(model, tmp_path / "model", example=x, program=True)
    with milepost.open(tmp_path / "model") as snapshot:
        [expected] = dict(snapshot.document.example.arrays("outputs")).values()
    found = milepost.load_program(tmp_path / "model")(x["x"] if isinstance(x, dict) else x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_program_holds_no_weights(tmp_path):
    save_model(bound(Dense(5000)), tmp_path / "model", example=X, program=True)
    with milepost.open(tmp_path / "model") as snapshot:
        assert len(snapshot.document.program.data) < 5000 * 3
        assert set(snapshot.document.program.weights.values()) == set(snapshot)


def test_a_program_takes_any_number_of_rows(tmp_path):
    model = bound(nn.Sequential([nn.Dense(64), nn.tanh, nn.Dense(2)]))
    save_model(model, tmp_path / "model", example=X, program=True)
    more = np.concatenate([X, X, X])
    found = milepost.load_program(tmp_path / "model")(more)
    np.testing.assert_allclose(found, model(more), rtol=1e-5, atol=1e-6)


class Coder(nnx.Module):
    """A model of two halves, neither of which is its call."""

    def __init__(self, rngs):
        self.encoder = nnx.Linear(4, 2, rngs=rngs)
        self.decoder = nnx.Linear(2, 4, rngs=rngs)

    def encode(self, x):
        return self.encoder(x)


def test_a_model_that_cannot_be_called(tmp_path):
    model = Coder(nnx.Rngs(0))
    milepost.save_model(model, tmp_path / "model")
    loaded = milepost.load_model(tmp_path / "model", custom_objects={"Coder": Coder})
    x = jnp.ones((1, 4))
    assert (loaded.encode(x) == model.encode(x)).all()
    with pytest.raises(milepost.errors.UsageError, match="does not take the example"):
        milepost.save_model(model, tmp_path / "model", example=x)
