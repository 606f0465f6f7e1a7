"""Functions with their parameters: one's own, Haiku's, and Linen's `apply`."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from jax.tree_util import Partial

import milepost
from tests.coverage.family import Family

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (2, 8))


def mlp(params: Any, x: Any, *, scale: Any = 1.0) -> Any:
    """An `(init, apply)` network in the style of stax."""
    for weight, bias in params[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = params[-1]
    return (x @ weight + bias) * scale


def init(*sizes: int) -> Any:
    keys = jax.random.split(KEY, len(sizes))
    pairs = zip(keys, sizes[:-1], sizes[1:], strict=False)
    return [(jax.random.normal(key, (a, b)), jnp.zeros(b)) for key, a, b in pairs]


def noisy(params: Any, key: Any, x: Any) -> Any:
    return x * params["scale"] + jax.random.normal(key, x.shape)


def convolutional(x: Any) -> Any:
    x = hk.Conv2D(3, 2)(x.reshape(-1, 4, 2, 1))
    return hk.nets.MLP([4, 2])(hk.Flatten()(hk.LayerNorm(-1, True, True)(x)))


def recurrent(x: Any) -> Any:
    core = hk.LSTM(3)
    out, _ = hk.dynamic_unroll(core, x[:, None], core.initial_state(1))
    return out


def with_state(x: Any, is_training: bool = False) -> Any:
    return hk.BatchNorm(True, True, 0.9)(hk.Linear(3)(x), is_training=is_training)


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(2)(nn.tanh(nn.Dense(4)(x)))


HAIKU = hk.transform(convolutional)
RECURRENT = hk.without_apply_rng(hk.transform(recurrent))
STATEFUL = hk.without_apply_rng(hk.transform_with_state(with_state))
LINEN = Dense()
FUNCTIONS = {
    "mlp": mlp,
    "noisy": noisy,
    "haiku": HAIKU.apply,
    "haiku_recurrent": RECURRENT.apply,
    "haiku_stateful": STATEFUL.apply,
    "linen": LINEN.apply,
}
for name, function in FUNCTIONS.items():
    milepost.register(function, name=name)

CASES = {
    "init-and-apply": lambda: (Partial(mlp, init(8, 4, 2)), X),
    "init-and-apply by-name": lambda: (Partial(mlp, params=init(8, 4), scale=2.0), {"x": X}),
    "random-keys": lambda: (Partial(noisy, {"scale": jnp.ones(8)}, jax.random.key(3)), X),
    "haiku-transform": lambda: (Partial(HAIKU.apply, HAIKU.init(KEY, X), None), X),
    "haiku-recurrent": lambda: (Partial(RECURRENT.apply, RECURRENT.init(KEY, X)), X),
    "haiku-with-state": lambda: (Partial(STATEFUL.apply, *STATEFUL.init(KEY, X, True)), X),
    "linen-apply": lambda: (Partial(LINEN.apply, LINEN.init(KEY, X)), X),
}

FAMILY = Family(
    title="JAX functions",
    exist=lambda: sorted({case.partition(" ")[0] for case in CASES}),
    cases=CASES,
)
