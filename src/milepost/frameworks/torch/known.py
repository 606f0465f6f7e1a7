"""The classes of `torch.nn` that a model file may name, and how to call their constructors.

A fixed list: what a later PyTorch adds is unknown until someone has looked at it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_NAMES = """
    AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveLogSoftmaxWithLoss
    AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d AlphaDropout AvgPool1d AvgPool2d
    AvgPool3d BCELoss BCEWithLogitsLoss BatchNorm1d BatchNorm2d BatchNorm3d Bilinear CELU CTCLoss
    ChannelShuffle CircularPad1d CircularPad2d CircularPad3d ConstantPad1d ConstantPad2d
    ConstantPad3d Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d
    CosineEmbeddingLoss CosineSimilarity CrossEntropyLoss CrossMapLRN2d Dropout Dropout1d
    Dropout2d Dropout3d ELU Embedding EmbeddingBag FeatureAlphaDropout Flatten Fold
    FractionalMaxPool2d FractionalMaxPool3d GELU GLU GRU GRUCell GaussianNLLLoss GroupNorm
    Hardshrink Hardsigmoid Hardswish Hardtanh HingeEmbeddingLoss HuberLoss Identity
    InstanceNorm1d InstanceNorm2d InstanceNorm3d KLDivLoss L1Loss LPPool1d LPPool2d LPPool3d LSTM
    LSTMCell LayerNorm LeakyReLU Linear LocalResponseNorm LogSigmoid LogSoftmax MSELoss
    MarginRankingLoss MaxPool1d MaxPool2d MaxPool3d MaxUnpool1d MaxUnpool2d MaxUnpool3d Mish
    ModuleDict ModuleList MultiLabelMarginLoss MultiLabelSoftMarginLoss MultiMarginLoss
    MultiheadAttention NLLLoss PReLU PairwiseDistance PixelShuffle PixelUnshuffle PoissonNLLLoss
    RMSNorm RNN RNNCell RReLU ReLU ReLU6 ReflectionPad1d ReflectionPad2d ReflectionPad3d
    ReplicationPad1d ReplicationPad2d ReplicationPad3d SELU Sequential SiLU Sigmoid SmoothL1Loss
    SoftMarginLoss Softmax Softmax2d Softmin Softplus Softshrink Softsign SyncBatchNorm Tanh
    Tanhshrink Threshold TransformerEncoder TransformerEncoderLayer TripletMarginLoss Unflatten
    Unfold Upsample UpsamplingBilinear2d UpsamplingNearest2d ZeroPad1d ZeroPad2d ZeroPad3d
"""

CLASSES: dict[str, type[nn.Module]] = {
    name: getattr(nn, name) for name in _NAMES.split() if hasattr(nn, name)
}
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# Activation functions that a constructor may take (`TransformerEncoderLayer(activation=...)`).
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "relu": torch.nn.functional.relu,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
}


def is_known(cls: type) -> bool:
    return CLASSES.get(cls.__name__) is cls


class NoArgument(Exception):
    """A constructor's parameter of this name has no value that the module remembers."""


def arguments(module: nn.Module) -> dict[str, Any]:
    """What the constructor of a module's class has to be called with to make it again.

    For most classes every parameter has an attribute of its name; the rest has a recipe.

    Raises:
        NoArgument: neither is so, for the parameter that it names.
    """
    recipe = _RECIPES.get(type(module))
    if recipe is not None:
        return recipe(module)
    cls = type(module)
    found = {}
    for parameter in parameters(cls):
        name = parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name == "device" or (is_known(cls) and (name == "dtype" or name.startswith("_"))):
            continue
        value = getattr(module, name, NoArgument)
        if name == "bias" and name in module._parameters:
            value = value is not None
        if value is not NoArgument and not inspect.ismethod(value):
            found[name] = value
        elif parameter.default is parameter.empty:
            raise NoArgument(name)
    return found


def parameters(cls: type[nn.Module]) -> list[inspect.Parameter]:
    """What the constructor of a class takes; its first parameter is the module itself."""
    if cls.__init__ is nn.Module.__init__:
        return []
    found = list(inspect.signature(cls.__init__).parameters.values())
    return found if found[0].kind is inspect.Parameter.VAR_POSITIONAL else found[1:]


def forgets(module: nn.Module) -> bool:
    """Whether a constructor's argument may have had a value that `arguments` does not find."""
    return any(
        parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        or not hasattr(module, parameter.name)
        for parameter in parameters(type(module))
        if parameter.name != "device"
    )


def _recurrent(module: Any) -> dict[str, Any]:
    names = [
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
    ]
    found = {name: getattr(module, name) for name in names}
    if isinstance(module, nn.LSTM):
        found["proj_size"] = module.proj_size
    elif isinstance(module, nn.RNN):
        found["nonlinearity"] = module.mode.removeprefix("RNN_").lower()
    return found


def _attention(module: Any) -> dict[str, Any]:
    names = ["embed_dim", "num_heads", "dropout", "add_zero_attn", "kdim", "vdim", "batch_first"]
    return {
        **{name: getattr(module, name) for name in names},
        "bias": module.in_proj_bias is not None,
        "add_bias_kv": module.bias_k is not None,
    }


def _encoder_layer(module: Any) -> dict[str, Any]:
    return {
        "d_model": module.self_attn.embed_dim,
        "nhead": module.self_attn.num_heads,
        "dim_feedforward": module.linear1.out_features,
        "dropout": module.dropout.p,
        "activation": module.activation,
        "layer_norm_eps": module.norm1.eps,
        "batch_first": module.self_attn.batch_first,
        "norm_first": module.norm_first,
        "bias": module.linear1.bias is not None,
    }


def _encoder(module: Any) -> dict[str, Any]:
    return {
        "encoder_layer": module.layers[0],
        "num_layers": module.num_layers,
        "norm": module.norm,
        "enable_nested_tensor": module.enable_nested_tensor,
        "mask_check": module.mask_check,
    }


def _adaptive_softmax(module: Any) -> dict[str, Any]:
    names = ["in_features", "n_classes", "div_value", "head_bias"]
    # Its own list of cutoffs ends with the number of classes.
    return {**{name: getattr(module, name) for name in names}, "cutoffs": module.cutoffs[:-1]}


def _distance(module: Any) -> dict[str, Any]:
    return {"p": module.norm, "eps": module.eps, "keepdim": module.keepdim}


_RECIPES: dict[type[nn.Module], Callable[[Any], dict[str, Any]]] = {
    nn.RNN: _recurrent,
    nn.LSTM: _recurrent,
    nn.GRU: _recurrent,
    nn.MultiheadAttention: _attention,
    nn.TransformerEncoderLayer: _encoder_layer,
    nn.TransformerEncoder: _encoder,
    nn.AdaptiveLogSoftmaxWithLoss: _adaptive_softmax,
    nn.PairwiseDistance: _distance,
}
