"""Every module class of `flax.linen`."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tests.coverage.family import Family

KEY = jax.random.key(0)


def exist() -> list[str]:
    classes = {n: v for n, v in vars(nn).items() if isinstance(v, type) and not n.startswith("_")}
    return [n for n, v in classes.items() if issubclass(v, nn.Module) and v is not nn.Module]


def array(*shape: int) -> Any:
    return jax.random.normal(jax.random.key(1), shape)


def case(module: nn.Module, *inputs: Any, **named: Any) -> Any:
    """A module bound to what its `init` makes, and its inputs."""
    variables = module.init({"params": KEY, "dropout": KEY}, *inputs, **named)
    return module.bind(variables), named or inputs


def cell(module: nn.Module, *shape: int) -> Any:
    """A recurrent cell: it takes what it carries, and an input."""
    x = array(*shape)
    return case(module, module.initialize_carry(KEY, x.shape), x)


class Wrapped(nn.Module):
    """A layer around another, which it does not take as a field that is a module of its own."""

    kind: Any
    train: bool = False

    @nn.compact
    def __call__(self, x: Any) -> Any:
        inner = nn.Dense(3)
        if self.kind is nn.WeightNorm:
            return nn.WeightNorm(inner)(x)
        return nn.SpectralNorm(inner)(x, update_stats=self.train)


class Quantised(nn.Module):
    """A dense layer whose product is computed in another way."""

    product: Any

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(4, dot_general_cls=self.product)(x)


def wrapped(kind: Any) -> Any:
    return case(Wrapped(kind), array(2, 4))


CASES = {
    "PReLU": lambda: case(nn.PReLU(), array(2, 3)),
    "MultiHeadAttention": lambda: case(nn.MultiHeadAttention(2), array(2, 3, 4)),
    "MultiHeadDotProductAttention": lambda: case(
        nn.MultiHeadDotProductAttention(2, qkv_features=4, normalize_qk=True), array(2, 3, 4)
    ),
    "SelfAttention": lambda: case(nn.SelfAttention(2), array(2, 3, 4)),
    "SelfAttention dropout": lambda: case(
        nn.SelfAttention(2, dropout_rate=0.5, deterministic=True), array(2, 3, 4)
    ),
    "Sequential": lambda: case(nn.Sequential([nn.Dense(3), nn.tanh, nn.Dense(2)]), array(2, 3)),
    "ConvLocal": lambda: case(nn.ConvLocal(3, (2,)), array(2, 5, 2)),
    "ConvTranspose": lambda: case(nn.ConvTranspose(3, (3, 3), (2, 2)), array(1, 4, 4, 2)),
    "Conv": lambda: case(nn.Conv(3, (3, 3), padding="VALID"), array(1, 4, 4, 2)),
    "Conv dilated": lambda: case(
        nn.Conv(4, (3,), feature_group_count=2, kernel_dilation=2, use_bias=False), array(1, 9, 2)
    ),
    "DenseGeneral": lambda: case(nn.DenseGeneral((3, 2), axis=(-1, -2)), array(2, 3, 4)),
    "Dense": lambda: case(nn.Dense(3), array(2, 4)),
    "Dense bfloat16": lambda: case(
        nn.Dense(3, dtype=jnp.bfloat16, param_dtype=jnp.float16, precision="highest"), array(2, 4)
    ),
    "Dense initialised": lambda: case(
        nn.Dense(3, kernel_init=nn.initializers.orthogonal(2.0), bias_init=nn.initializers.ones),
        array(2, 4),
    ),
    "Dense partitioned": lambda: case(
        nn.Dense(3, kernel_init=nn.with_partitioning(nn.initializers.ones, ("a", None))),
        array(2, 4),
    ),
    "Einsum": lambda: case(nn.Einsum((2, 3, 4), "abc,cde->abde"), array(1, 5, 2)),
    "Embed": lambda: case(nn.Embed(5, 3), jnp.array([1, 4])),
    "BatchNorm": lambda: case(nn.BatchNorm(use_running_average=True), array(2, 3)),
    "BatchNorm argument": lambda: case(nn.BatchNorm(), x=array(2, 3), use_running_average=True),
    "GroupNorm": lambda: case(nn.GroupNorm(2), array(2, 4)),
    "InstanceNorm": lambda: case(nn.InstanceNorm(), array(2, 5, 3)),
    "LayerNorm": lambda: case(nn.LayerNorm(epsilon=1e-4), array(2, 3)),
    "RMSNorm": lambda: case(nn.RMSNorm(), array(2, 3)),
    "SpectralNorm": lambda: wrapped(nn.SpectralNorm),
    "WeightNorm": lambda: wrapped(nn.WeightNorm),
    "Bidirectional": lambda: case(
        nn.Bidirectional(nn.RNN(nn.LSTMCell(3)), nn.RNN(nn.GRUCell(3))), array(2, 4, 2)
    ),
    "RNN": lambda: case(nn.RNN(nn.GRUCell(3), reverse=True), array(2, 4, 2)),
    "ConvLSTMCell": lambda: cell(nn.ConvLSTMCell(3, (2, 2)), 1, 4, 4, 2),
    "GRUCell": lambda: cell(nn.GRUCell(3), 2, 4),
    "LSTMCell": lambda: cell(nn.LSTMCell(3), 2, 4),
    "MGUCell": lambda: cell(nn.MGUCell(3), 2, 4),
    "OptimizedLSTMCell": lambda: cell(nn.OptimizedLSTMCell(3), 2, 4),
    "SimpleCell": lambda: cell(nn.SimpleCell(3, activation_fn=nn.relu), 2, 4),
    "Dropout": lambda: case(nn.Dropout(0.5), inputs=array(2, 3), deterministic=True),
    "Dropout argument": lambda: case(nn.Dropout(0.5, deterministic=True), array(2, 3)),
    "Fp8DirectDotGeneralOp": lambda: case(Quantised(nn.Fp8DirectDotGeneralOp), array(4, 16)),
    "Fp8DotGeneral": lambda: case(Quantised(nn.Fp8DotGeneral), array(4, 16)),
    "Fp8DotGeneralOp": lambda: case(Quantised(nn.Fp8DotGeneralOp), array(4, 16)),
    "NANOOFp8DotGeneralOp": lambda: case(Quantised(nn.NANOOFp8DotGeneralOp), array(4, 16)),
    "Fp8Einsum": lambda: case(nn.Fp8Einsum(), eqn="ab,bc->ac", lhs=array(4, 16), rhs=array(16, 8)),
}

FAMILY = Family(
    title="flax.linen",
    exist=exist,
    cases=CASES,
    custom_objects={"Wrapped": Wrapped, "Quantised": Quantised},
    left_out={
        "RNNCellBase": "a base class",
    },
)
