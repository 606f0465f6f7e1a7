"""Every module class of `equinox.nn`."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import nn

from tests.coverage.family import Family

KEY = jax.random.key(0)


def exist() -> list[str]:
    classes = {n: v for n, v in vars(nn).items() if isinstance(v, type) and not n.startswith("_")}
    return [n for n, v in classes.items() if issubclass(v, eqx.Module)]


def array(*shape: int) -> Any:
    return jax.random.normal(jax.random.key(1), shape)


def stateful(make: Any) -> Any:
    """A layer with a state, as one model: the layer, and the state that it is called with."""
    layer, state = nn.make_with_state(make)()
    return eqx.Partial(layer, state=state)


def pair() -> nn.Sequential:
    return nn.Sequential([nn.Linear(2, 2, key=KEY), nn.Lambda(jnp.tanh), nn.Linear(2, 2, key=KEY)])


def last(layers: nn.Sequential) -> Any:
    return layers[2].weight


def first(layers: nn.Sequential) -> Any:
    return layers[0].weight


class Tied(eqx.Module):
    shared: nn.Shared

    def __init__(self, key: Any) -> None:
        self.shared = nn.Shared(pair(), where=last, get=first)

    def __call__(self, x: Any) -> Any:
        return self.shared()(x)


CASES = {
    **{
        f"{kind}Pool{n}d": lambda cls=f"{kind}Pool{n}d", n=n, args=args: (
            getattr(nn, cls)(*args),
            array(2, *[6] * n),
        )
        for kind, args in {
            "AdaptiveAvg": (2,),
            "AdaptiveMax": (3,),
            "Avg": (2, 1, 1),
            "Max": (3, 2),
        }.items()
        for n in (1, 2, 3)
    },
    "AdaptivePool": lambda: (nn.AdaptivePool((2,), 1, jnp.median), array(2, 6)),
    "Pool": lambda: (nn.Pool(0, jax.lax.add, 1, 2, 1), array(2, 6)),
    **{
        f"Conv{n}d": lambda n=n: (getattr(nn, f"Conv{n}d")(2, 3, 2, key=KEY), array(2, *[4] * n))
        for n in (1, 2, 3)
    },
    **{
        f"ConvTranspose{n}d": lambda n=n: (
            getattr(nn, f"ConvTranspose{n}d")(2, 3, 2, stride=2, key=KEY),
            array(2, *[4] * n),
        )
        for n in (1, 2, 3)
    },
    "Conv": lambda: (nn.Conv(1, 2, 4, 3, groups=2, padding="SAME", key=KEY), array(2, 5)),
    "ConvTranspose": lambda: (nn.ConvTranspose(1, 2, 4, 3, use_bias=False, key=KEY), array(2, 5)),
    "Linear": lambda: (nn.Linear(3, 4, key=KEY), array(3)),
    "Linear scalar": lambda: (nn.Linear("scalar", 4, use_bias=False, key=KEY), array()),
    "Linear bfloat16": lambda: (nn.Linear(3, 4, dtype=jnp.bfloat16, key=KEY), array(3)),
    "MLP": lambda: (nn.MLP(2, 3, 4, 2, key=KEY), array(2)),
    "MLP gelu": lambda: (
        nn.MLP(2, "scalar", 4, 1, activation=jax.nn.gelu, final_activation=jnp.tanh, key=KEY),
        array(2),
    ),
    "Identity": lambda: (nn.Identity(), array(2)),
    "Embedding": lambda: (nn.Embedding(5, 3, key=KEY), jnp.array(2)),
    "RotaryPositionalEmbedding": lambda: (nn.RotaryPositionalEmbedding(4), array(3, 4)),
    "Dropout": lambda: (nn.Dropout(0.5), array(3)),
    "GroupNorm": lambda: (nn.GroupNorm(2, 4), array(4, 3)),
    "LayerNorm": lambda: (nn.LayerNorm((4,)), array(4)),
    "RMSNorm": lambda: (nn.RMSNorm(4), array(4)),
    "PReLU": lambda: (nn.PReLU(0.3), array(3)),
    "GRUCell": lambda: (nn.GRUCell(2, 3, key=KEY), (array(2), array(3))),
    "LSTMCell": lambda: (nn.LSTMCell(2, 3, key=KEY), (array(2), (array(3), array(3)))),
    "MultiheadAttention": lambda: (
        nn.MultiheadAttention(2, 4, use_output_bias=True, key=KEY),
        {"query": array(3, 4), "key_": array(3, 4), "value": array(3, 4)},
    ),
    "Lambda": lambda: (nn.Lambda(jax.nn.softplus), array(3)),
    "Sequential": lambda: (pair(), array(2)),
    "Sequential nested": lambda: (
        nn.Sequential([pair(), nn.Lambda(jax.nn.relu), nn.Dropout(0.1, inference=True)]),
        array(2),
    ),
    "Shared": lambda: (Tied(KEY), array(2)),
    "WeightNorm": lambda: (nn.WeightNorm(nn.Linear(2, 3, key=KEY)), array(2)),
    "BatchNorm": lambda: (stateful(lambda: nn.BatchNorm(3, "batch", mode="batch")), array(3)),
    "BatchNorm ema": lambda: (stateful(lambda: nn.BatchNorm(3, "batch", mode="ema")), array(3)),
    "SpectralNorm": lambda: (
        stateful(lambda: nn.SpectralNorm(nn.Linear(2, 3, key=KEY), "weight", key=KEY)),
        array(2),
    ),
    "StateIndex": lambda: (
        stateful(lambda: nn.Sequential([nn.BatchNorm(3, "b", mode="batch"), nn.Lambda(jnp.tanh)])),
        array(3),
    ),
}

FAMILY = Family(
    title="equinox.nn",
    exist=exist,
    cases=CASES,
    custom_objects={"Tied": Tied, "first": first, "last": last},
    left_out={
        "StatefulLayer": "a base class: `BatchNorm` and `SpectralNorm` are of it",
    },
)
