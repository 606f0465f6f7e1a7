"""Every module class of `flax.nnx`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tests.coverage.family import Family


def exist() -> list[str]:
    classes = {n: v for n, v in vars(nnx).items() if isinstance(v, type) and not n.startswith("_")}
    return [n for n, v in classes.items() if issubclass(v, nnx.Module) and v is not nnx.Module]


def array(*shape: int) -> Any:
    return jax.random.normal(jax.random.key(1), shape)


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


def cell(cls: Any, **more: Any) -> Any:
    """A recurrent cell: it takes what it carries, and an input."""
    made = cls(4, 3, rngs=rngs(), **more)
    return made, (made.initialize_carry((2, 4), nnx.Rngs(1)), array(2, 4))


class Held(nnx.Module):
    """What an NNX container holds, called in turn."""

    def __init__(self, parts: Any) -> None:
        self.parts = parts

    def __call__(self, x: Any) -> Any:
        parts = vars(self.parts).values() if isinstance(self.parts, nnx.Dict) else self.parts
        for part in parts:
            x = part(x) if isinstance(part, nnx.Module) else x
        return x


def layers() -> list[Any]:
    keys = rngs()
    first = nnx.Linear(3, 3, rngs=keys)
    return [first, nnx.Dropout(0.5, rngs=keys), nnx.Linear(3, 3, rngs=keys), first]


def partitioned() -> nnx.Linear:
    with nnx.use_eager_sharding(False):
        initialiser = nnx.with_partitioning(nnx.initializers.ones, ("data", None))
        return nnx.Linear(3, 4, kernel_init=initialiser, rngs=rngs())


def attention(**more: Any) -> Any:
    return nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs(), **more)


CASES = {
    "Dict": lambda: (Held(nnx.Dict(a=layers()[0], b=layers()[2])), array(2, 3)),
    "List": lambda: (Held(nnx.List(layers() * 3)), array(2, 3)),
    "Sequential": lambda: (nnx.Sequential(*layers(), jnp.tanh), array(2, 3)),
    "PReLU": lambda: (nnx.PReLU(), array(2, 3)),
    "MultiHeadAttention": lambda: (attention(), array(2, 3, 4)),
    "MultiHeadAttention normalised": lambda: (
        attention(normalize_qk=True, dropout_rate=0.5, use_bias=False),
        array(2, 3, 4),
    ),
    "LSTMCell": lambda: cell(nnx.LSTMCell),
    "GRUCell": lambda: cell(nnx.GRUCell),
    "OptimizedLSTMCell": lambda: cell(nnx.OptimizedLSTMCell),
    "SimpleCell": lambda: cell(nnx.SimpleCell, activation_fn=nnx.relu),
    "RNN": lambda: (nnx.RNN(nnx.GRUCell(4, 3, rngs=rngs())), array(2, 5, 4)),
    "Bidirectional": lambda: (
        nnx.Bidirectional(
            nnx.RNN(nnx.LSTMCell(4, 3, rngs=nnx.Rngs(0))),
            nnx.RNN(nnx.SimpleCell(4, 3, rngs=nnx.Rngs(1))),
        ),
        array(2, 5, 4),
    ),
    "Conv": lambda: (nnx.Conv(2, 3, (3, 3), padding="VALID", rngs=rngs()), array(1, 4, 4, 2)),
    "Conv grouped": lambda: (
        nnx.Conv(2, 4, 3, strides=2, feature_group_count=2, use_bias=False, rngs=rngs()),
        array(1, 9, 2),
    ),
    "ConvTranspose": lambda: (
        nnx.ConvTranspose(2, 3, (3,), strides=2, rngs=rngs()),
        array(1, 4, 2),
    ),
    "Embed": lambda: (nnx.Embed(5, 3, rngs=rngs()), jnp.array([1, 4])),
    "Linear": lambda: (nnx.Linear(3, 4, rngs=rngs()), array(2, 3)),
    "Linear bfloat16": lambda: (
        nnx.Linear(
            *(3, 4), dtype=jnp.bfloat16, param_dtype=jnp.float16, precision="highest", rngs=rngs()
        ),
        array(2, 3),
    ),
    "Linear partitioned": lambda: (partitioned(), array(2, 3)),
    "LinearGeneral": lambda: (
        nnx.LinearGeneral((3, 4), (2, 2), axis=(-2, -1), rngs=rngs()),
        array(2, 3, 4),
    ),
    "Einsum": lambda: (nnx.Einsum("ab,bc->ac", (3, 4), (4,), rngs=rngs()), array(2, 3)),
    "LoRA": lambda: (nnx.LoRA(3, 2, 4, rngs=rngs()), array(2, 3)),
    "LoRA over a module": lambda: (
        nnx.LoRA(3, 2, 4, base_module=nnx.Linear(3, 4, rngs=nnx.Rngs(1)), rngs=rngs()),
        array(2, 3),
    ),
    "LoRALinear": lambda: (nnx.LoRALinear(3, 4, lora_rank=2, rngs=rngs()), array(2, 3)),
    "BatchNorm": lambda: (nnx.BatchNorm(3, rngs=rngs()), array(2, 3)),
    "LayerNorm": lambda: (nnx.LayerNorm(3, epsilon=1e-4, rngs=rngs()), array(2, 3)),
    "RMSNorm": lambda: (nnx.RMSNorm(3, rngs=rngs()), array(2, 3)),
    "GroupNorm": lambda: (nnx.GroupNorm(4, 2, rngs=rngs()), array(2, 4)),
    "InstanceNorm": lambda: (nnx.InstanceNorm(3, rngs=rngs()), array(2, 5, 3)),
    "SpectralNorm": lambda: (
        nnx.SpectralNorm(nnx.Linear(3, 4, rngs=rngs()), rngs=rngs()),
        array(2, 3),
    ),
    "WeightNorm": lambda: (
        nnx.WeightNorm(nnx.Linear(3, 4, rngs=rngs()), rngs=rngs()),
        array(2, 3),
    ),
    "Dropout": lambda: (nnx.Dropout(0.5, rngs=rngs()), array(2, 3)),
}

FAMILY = Family(
    title="flax.nnx",
    exist=exist,
    cases=CASES,
    custom_objects={"Held": Held},
    left_out={"RNNCellBase": "a base class"},
)
