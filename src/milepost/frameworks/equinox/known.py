"""The classes and functions of Equinox that a model file may name.

A fixed list: what a later Equinox adds is unknown until someone has looked at it.
"""

from __future__ import annotations

from typing import Any

import equinox
from equinox import nn
from equinox.nn import _mlp, _stateful, _weight_norm

from milepost.frameworks.pytrees.known import Vocabulary, functions

_NAMES = """
    AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d
    AdaptiveMaxPool3d AdaptivePool AvgPool1d AvgPool2d AvgPool3d BatchNorm Conv Conv1d Conv2d Conv3d
    ConvTranspose ConvTranspose1d ConvTranspose2d ConvTranspose3d Dropout Embedding GRUCell
    GroupNorm Identity LSTMCell Lambda LayerNorm Linear MLP MaxPool1d MaxPool2d MaxPool3d
    MultiheadAttention PReLU Pool RMSNorm RotaryPositionalEmbedding Sequential Shared SpectralNorm
    StateIndex WeightNorm
"""
_CLASSES: dict[str, Any] = {
    **{name: getattr(nn, name) for name in _NAMES.split() if hasattr(nn, name)},
    "Partial": equinox.Partial,
    "_Sentinel": _stateful._Sentinel,
}

WORDS = Vocabulary(
    "equinox",
    (equinox.Module,),
    _CLASSES,
    {
        **functions(_mlp, ["_identity"], "equinox.nn"),
        **functions(_weight_norm, ["_norm_except_axis"], "equinox.nn"),
    },
)
