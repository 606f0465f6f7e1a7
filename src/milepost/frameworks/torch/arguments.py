"""What a module's constructor has to be called with to make it again."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from milepost import registry
from milepost.frameworks.torch.known import class_of, is_known


class NoArgument(Exception):
    """A constructor's parameter of this name has no value that the module remembers."""


@dataclass(frozen=True)
class Template:
    """A module that a constructor copies: it is itself no part of the model."""

    module: nn.Module


@dataclass(frozen=True)
class Arguments:
    """The arguments of a constructor.

    Attributes:
        values: by the names of the parameters; `*args` as a tuple, `**kwargs` as a dict.
        complete: whether these are all; else one may have had a value that nobody knows.
    """

    values: Mapping[str, Any]
    complete: bool


def arguments(module: nn.Module) -> Arguments:
    """What the constructor of a module's class has to be called with to make it again.

    Registered classes have noted it. For most others every parameter has an attribute of its
    name; the rest has a recipe.

    Raises:
        NoArgument: none is so, for the parameter that it names.
    """
    cls = class_of(module)
    recipe = _RECIPES.get(cls)
    if recipe is not None:
        try:
            return Arguments(recipe(module), complete=True)
        except AttributeError as error:  # of a part that is no longer what its class makes
            raise NoArgument(error.name) from None
    noted = registry.arguments_of(module, cls)
    if noted is not None:
        elsewhere = {key for key in noted if _is_elsewhere(cls, key, noted[key])}
        return Arguments({k: v for k, v in noted.items() if k not in elsewhere}, complete=True)
    return _guessed(module, cls)


def _guessed(module: nn.Module, cls: type[nn.Module]) -> Arguments:
    found, complete = {}, True
    for parameter in parameters(cls):
        name = parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            complete = False
            continue
        value = getattr(module, name, NoArgument)
        hidden = name == "dtype" or (name.startswith("_") and not is_state(module, value))
        if _is_elsewhere(cls, name, value) or (is_known(cls) and hidden):
            continue
        if isinstance(value, enum.Enum) and isinstance(value, str | int):
            value = value.value  # what its constructor was given, as often as not
        if name == "bias" and (name in module._parameters or is_parametrized(module, name)):
            value = value is not None
        complete = complete and value is not NoArgument
        if value is not NoArgument and not inspect.ismethod(value):
            found[name] = value
        elif parameter.default is parameter.empty:
            raise NoArgument(name)
    return Arguments(found, complete)


def _is_elsewhere(cls: type[nn.Module], name: str, value: Any) -> bool:
    """Whether an argument is a device that another machine may lack, and that may be left out."""
    if name != "device":
        return False
    required = any(p.name == name and p.default is p.empty for p in parameters(cls))
    return is_known(cls) or not (required or str(value) == "cpu")


def parameters(cls: type[nn.Module]) -> list[inspect.Parameter]:
    """What the constructor of a class takes; its first parameter is the module itself."""
    if cls.__init__ is nn.Module.__init__:
        return []
    found = list(inspect.signature(cls.__init__).parameters.values())
    return found if found[0].kind is inspect.Parameter.VAR_POSITIONAL else found[1:]


def _attributes(module: nn.Module, names: str) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names.split()}


def _recurrent(module: Any) -> dict[str, Any]:
    names = "input_size hidden_size num_layers bias batch_first dropout bidirectional"
    found = _attributes(module, names)
    if isinstance(module, nn.LSTM):
        found["proj_size"] = module.proj_size
    elif isinstance(module, nn.RNN):
        found["nonlinearity"] = module.mode.removeprefix("RNN_").lower()
    return found


def _cell(module: Any) -> dict[str, Any]:
    chunks = module.weight_ih.shape[0] // module.hidden_size
    return {**_attributes(module, "input_size hidden_size bias"), "num_chunks": chunks}


def _attention(module: Any) -> dict[str, Any]:
    names = "embed_dim num_heads dropout add_zero_attn kdim vdim batch_first"
    return {
        **_attributes(module, names),
        "bias": module.in_proj_bias is not None,
        "add_bias_kv": module.bias_k is not None,
    }


def _transformer_layer(module: Any) -> dict[str, Any]:
    return {
        "d_model": module.self_attn.embed_dim,
        "nhead": module.self_attn.num_heads,
        # What stands in the place of either, such as an adapter, need not have features.
        "dim_feedforward": getattr(module.linear1, "out_features", None)
        or module.linear2.in_features,
        "dropout": module.dropout.p,
        # A copy of a decoder layer forgets that it has an activation that is a module.
        "activation": module._modules.get("activation", module.activation),
        "layer_norm_eps": module.norm1.eps,
        "batch_first": module.self_attn.batch_first,
        "norm_first": module.norm_first,
        "bias": getattr(module.linear1, "bias", module.norm1.bias) is not None,
    }


def _encoder(module: Any) -> dict[str, Any]:
    names = "num_layers norm enable_nested_tensor mask_check"
    return {"encoder_layer": _first_layer(module), **_attributes(module, names)}


def _decoder(module: Any) -> dict[str, Any]:
    return {"decoder_layer": _first_layer(module), **_attributes(module, "num_layers norm")}


def _first_layer(module: Any) -> Template:
    # Later ones that have become different are described as changes.
    if not len(module.layers):
        raise NoArgument("layer")
    return Template(module.layers[0])


def _transformer(module: Any) -> dict[str, Any]:
    found = _attributes(module, "d_model nhead batch_first")
    return {**found, "custom_encoder": module.encoder, "custom_decoder": module.decoder}


def _adaptive_softmax(module: Any) -> dict[str, Any]:
    # Its own list of cutoffs ends with the number of classes.
    names = "in_features n_classes div_value head_bias"
    return {**_attributes(module, names), "cutoffs": module.cutoffs[:-1]}


def _fused_loss(module: Any) -> dict[str, Any]:
    names = "num_classes out_features reduction weight ignore_index label_smoothing options"
    linear = module.linear
    return {
        "in_features": linear.in_features,
        "bias": linear.bias is not None,
        **_attributes(module, names),
    }


def _distance(module: Any) -> dict[str, Any]:
    return {"p": module.norm, "eps": module.eps, "keepdim": module.keepdim}


def _parameter_list(module: Any) -> dict[str, Any]:
    return {"values": list(module)}


def _parameter_dict(module: Any) -> dict[str, Any]:
    return {"parameters": dict(module.items())}


_RECIPES: dict[type[nn.Module], Callable[[Any], dict[str, Any]]] = {
    nn.RNN: _recurrent,
    nn.LSTM: _recurrent,
    nn.GRU: _recurrent,
    nn.RNNCellBase: _cell,
    nn.MultiheadAttention: _attention,
    nn.TransformerEncoderLayer: _transformer_layer,
    nn.TransformerDecoderLayer: _transformer_layer,
    nn.TransformerEncoder: _encoder,
    nn.TransformerDecoder: _decoder,
    nn.Transformer: _transformer,
    nn.AdaptiveLogSoftmaxWithLoss: _adaptive_softmax,
    nn.PairwiseDistance: _distance,
    nn.ParameterList: _parameter_list,
    nn.ParameterDict: _parameter_dict,
}
if hasattr(nn, "LinearCrossEntropyLoss"):  # since PyTorch 2.13
    _RECIPES[nn.LinearCrossEntropyLoss] = _fused_loss


def is_state(module: nn.Module, value: Any) -> bool:
    """Whether a value is a tensor whose numbers are the module's own state."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return isinstance(value, torch.Tensor) and any(value is tensor for tensor in own)
