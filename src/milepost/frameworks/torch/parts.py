"""What a value consists of, so that two can be compared, and one searched, to the bottom."""

from __future__ import annotations

import weakref
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import _Orthogonal

from milepost import registry
from milepost.frameworks.torch import known

# What nn.Module keeps for itself; PyTorch's caches of what is elsewhere; what `torch.compile`
# and DDP leave on the module inside of them.
_INTERNAL = frozenset(vars(nn.Module())) | {
    registry.ARGUMENTS,
    "_compiled_call_impl",
    "_ddp_params_and_buffers_to_ignore",
    "_flat_weight_refs",
    "_flat_weights",
    "_is_torch_compile",
    "_torchdynamo_orig_callable",
    "_torchdynamo_wrapper_id",
    "get_compiler_config",
}
# On tensors: what `torch.compile`, Transformers, and PyTorch's own lazy classes leave there.
_NOTED_BY_LIBRARIES = ("_dynamo", "_is_hf_initialized", "persistent", "_is_param", "_is_buffer")
# Values that `==` tells apart; a class is itself only.
ATOMS = (type(None), bool, int, float, complex, str, bytes, type, CodeType, torch.dtype)


class Opaque(Exception):
    """A value does not say what it consists of."""


def attributes(module: nn.Module) -> dict[str, Any]:
    """What the class of a module, or whoever used the module, has put on it."""
    return {key: value for key, value in vars(module).items() if key not in _INTERNAL}


def notes(tensor: torch.Tensor) -> dict[str, Any]:
    """What a class, or whoever used a tensor, has put on it; not what libraries keep there."""
    return {key: v for key, v in vars(tensor).items() if not key.startswith(_NOTED_BY_LIBRARIES)}


def parts(value: Any) -> list[Any]:
    """Everything that a value consists of, in order.

    Raises:
        Opaque: it does not say.
    """
    if isinstance(value, nn.Module):
        state = [value._parameters, value._buffers, value._modules, value.training]
        return [attributes(value), *state]
    if type(value) in (list, tuple):
        return list(value)
    if type(value) is dict:
        return [*value.keys(), *value.values()]
    if isinstance(value, weakref.ref):
        return [value()]
    if isinstance(value, torch.Generator):
        return [value.get_state()]
    if isinstance(value, FunctionType):
        return _of_function(value)
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, BuiltinFunctionType):
        return [value.__name__, value.__self__]
    return _pickled(value)


def _of_function(function: FunctionType) -> list[Any]:
    try:
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:  # a cell that is still empty
        raise Opaque from None
    defaults = [function.__defaults__, function.__kwdefaults__]
    return [function.__code__, function.__module__, *defaults, *cells, vars(function)]


def _pickled(value: Any) -> list[Any]:
    """What pickle would write of an object: what makes it, its state, its items."""
    try:
        reduced = value.__reduce_ex__(4)
        if isinstance(reduced, str):
            return [reduced]
        make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        return [make, arguments, state, list(items or ()), list(pairs or ())]
    except Exception:  # whatever a class of the user's raises
        raise Opaque from None


def needs_values(module: nn.Module) -> bool:
    """Whether a module holds values that its state does not, so that no file has them."""
    saved = module.state_dict().keys()
    if any(name not in saved for name, _ in module.named_buffers(remove_duplicate=False)):
        return True
    if any(isinstance(part, _Orthogonal) for part in module.modules()):
        return True  # whether it has a base depends on what can be computed
    if any(type(parameter) is not nn.Parameter for parameter in module.parameters()):
        return True  # of a class of the user's, and what takes its place would not be
    met: dict[int, Any] = {id(part): part for part in module.modules()}
    # PyTorch's own classes hold nothing but their state, in attributes too (`_flat_weights`).
    owners = [part for part in module.modules() if not known.is_known(known.class_of(part))]
    return any(_holds_values(value, met) for part in owners for value in attributes(part).values())


def _holds_values(value: Any, met: dict[int, Any]) -> bool:
    if isinstance(value, torch.Tensor):
        return True
    if isinstance(value, torch.device):
        return value.type == "meta"
    if isinstance(value, ATOMS) or id(value) in met:
        return False
    met[id(value)] = value  # kept, so that no other object gets its id
    try:
        return any(_holds_values(part, met) for part in parts(value))
    except (Opaque, RecursionError):
        return True  # it may
