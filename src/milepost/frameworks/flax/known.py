"""The classes and functions of Flax that a model file may name.

A fixed list: what a later Flax adds is unknown until someone has looked at it.
"""

from __future__ import annotations

from typing import Any

import flax.linen.dtypes
import flax.nnx.nn.dtypes
from flax import linen, nnx
from flax.core.meta import AxisMetadata

from milepost.frameworks.pytrees.known import Vocabulary, functions

_LINEN = """
    BatchNorm Bidirectional Conv ConvLSTMCell ConvLocal ConvTranspose Dense DenseGeneral Dropout
    Einsum Embed Fp8DirectDotGeneralOp Fp8DotGeneral Fp8DotGeneralOp Fp8Einsum GRUCell GroupNorm
    InstanceNorm LSTMCell LayerNorm LogicallyPartitioned MGUCell MultiHeadAttention
    MultiHeadDotProductAttention NANOOFp8DotGeneralOp OptimizedLSTMCell PReLU Partitioned RMSNorm
    RNN SelfAttention Sequential SimpleCell SpectralNorm WeightNorm
"""
_NNX = """
    BatchNorm BatchStat Bidirectional Cache Carry Conv ConvTranspose Dict Dropout Einsum Embed
    GRUCell GroupNorm InstanceNorm Intermediate LSTMCell LayerNorm Linear LinearGeneral List LoRA
    LoRALinear LoRAParam MultiHeadAttention OptimizedLSTMCell PReLU Param Perturbation RMSNorm RNN
    RngCount RngKey RngStream Rngs Sequential SimpleCell SpectralNorm Variable WeightNorm
"""
_FILTERS = "PathContains WithTag"
_METRICS = "Accuracy Average Metric MetricState MultiMetric Welford"
_FUNCTIONS = """
    avg_pool combine_masks dot_product_attention dot_product_attention_weights make_attention_mask
    make_causal_mask max_pool min_pool
"""
_IN_BOTH = ["promote_dtype"]


def _classes(home: Any, names: str) -> dict[str, type]:
    return {name: getattr(home, name) for name in names.split() if hasattr(home, name)}


LINEN = Vocabulary(
    "flax",
    (linen.Module, AxisMetadata),
    _classes(linen, _LINEN),
    {
        **functions(linen, _FUNCTIONS.split(), "flax.linen"),
        **functions(flax.linen.dtypes, _IN_BOTH, "flax.linen.dtypes"),
    },
)
NNX = Vocabulary(
    "flax",
    (nnx.Pytree, nnx.Variable),
    {
        **_classes(nnx, _NNX),
        **_classes(nnx.metrics, _METRICS),
        **_classes(nnx.filterlib, _FILTERS),
    },
    {
        **functions(nnx, _FUNCTIONS.split(), "flax.nnx"),
        **functions(flax.nnx.nn.dtypes, _IN_BOTH, "flax.nnx.dtypes"),
    },
)
