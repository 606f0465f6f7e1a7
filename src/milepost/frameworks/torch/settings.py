"""What there is to tell of a module beside what its constructors make.

Modes, what is frozen, what is one tensor in several places, dtypes, how tensors lie in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from milepost.frameworks.torch.known import DTYPES
from milepost.frameworks.torch.modules import firsts, get_tensor, laid_out, set_tensor, ties
from milepost.state import LeafSpec
from milepost.undoing import undoing


def settings(module: nn.Module) -> dict[str, Any]:
    """What there is to tell of a module beside what its constructors make; `settle` reads it."""
    return {
        "evaluation": [name for name, part in module.named_modules() if not part.training],
        "frozen": [name for name, p in module.named_parameters() if not p.requires_grad],
        "ties": ties(module),
        "shared_buffers": _shared_buffers(module),
        "unsaved_buffers": _unsaved_buffers(module),
        "strides": _strides(module),
        "default_dtype": _name(torch.get_default_dtype()),
    }


def settle(
    module: nn.Module, structure: Mapping[str, Any], specs: Mapping[str, LeafSpec] | None
) -> nn.Module:
    """Give a module, fresh from its constructor, the settings that were saved."""
    for name, first in structure["ties"].items():
        _tie(module, name, first)
    if "shared_buffers" in structure:
        _share_buffers(module, structure["shared_buffers"])
    dtypes = {name: spec.dtype for name, spec in (specs or {}).items()}
    for name, dtype in {**dtypes, **structure.get("unsaved_buffers", {})}.items():
        _adopt_dtype(module, name, dtype)
    if "strides" in structure:
        _lay_out(module, structure["strides"])
    _put_in_order(module, specs or {})
    evaluation = set(structure["evaluation"])
    for name, part in module.named_modules():
        part.training = name not in evaluation
    frozen = set(structure["frozen"])
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen and _has_gradients(parameter.dtype))
    return module


@contextlib.contextmanager
def default_dtype(name: str | None) -> Iterator[None]:
    """Constructors compute in the dtype that was PyTorch's default when the model was saved."""
    before, dtype = torch.get_default_dtype(), DTYPES.get(str(name))
    with undoing(lambda: torch.set_default_dtype(before)):
        if dtype is not None and dtype.is_floating_point:
            torch.set_default_dtype(dtype)
        yield


def _tie(module: nn.Module, name: str, first: str) -> None:
    # A class that is another by now may lack either: the plan of the restore says so.
    tensor = get_tensor(module, first)
    if tensor is not None and get_tensor(module, name) is not None:
        set_tensor(module, name, tensor)


def _share_buffers(module: nn.Module, shared: Mapping[str, str]) -> None:
    """Share the buffers that were shared, and no others: `half()` and `to()` part them."""
    buffers = dict(module.named_buffers(remove_duplicate=False))
    for name, first in firsts(buffers.items()).items():
        if name in shared:
            _tie(module, name, shared[name])
        elif first != name:
            set_tensor(module, name, buffers[name].clone())


def _shared_buffers(module: nn.Module) -> dict[str, str]:
    """The name of each buffer that stands in several places -> its first name."""
    found = firsts(module.named_buffers(remove_duplicate=False))
    return {name: first for name, first in found.items() if name != first}


def _unsaved_buffers(module: nn.Module) -> dict[str, str]:
    """The dtypes of the buffers that are not part of the state (persistent=False)."""
    saved = module.state_dict().keys()
    named = module.named_buffers(remove_duplicate=False)
    return {name: _name(buffer.dtype) for name, buffer in named if name not in saved}


def specs_of(module: nn.Module) -> dict[str, LeafSpec]:
    state = module.state_dict().items()
    tensors = {name: t for name, t in state if isinstance(t, torch.Tensor)}
    return {name: LeafSpec(_name(t.dtype), tuple(t.shape)) for name, t in tensors.items()}


def _adopt_dtype(module: nn.Module, name: str, wanted: str) -> None:
    tensor, dtype = get_tensor(module, name), DTYPES.get(wanted)
    if tensor is None or dtype is None or tensor.dtype == dtype:
        return
    if not _has_gradients(dtype):
        tensor.requires_grad_(False)
    tensor.data = tensor.data.to(dtype)  # the same object, wherever it stands


def _has_gradients(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _strides(module: nn.Module) -> dict[str, list[int]]:
    """The strides of tensors that do not lie in memory row by row, as in `channels_last`."""
    return {
        name: list(tensor.stride())
        for name, tensor in _tensors(module)
        if tensor.stride() != _row_by_row(tensor.shape) and _is_dense(tensor.shape, tensor.stride())
    }


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the elements fill their memory, each in a place of its own."""
    if len(strides) != len(shape) or not all(0 <= stride < 1 << 62 for stride in strides):
        return False
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _row_by_row(shape: torch.Size) -> tuple[int, ...]:
    return torch.empty(shape, device="meta").stride()


def _lay_out(module: nn.Module, strides: Mapping[str, Sequence[int]]) -> None:
    """Let tensors lie in memory as they did: on that depend the last bits of what they compute."""
    for name, tensor in _tensors(module):
        wanted = tuple(strides.get(name, _row_by_row(tensor.shape)))
        if wanted != tensor.stride() and _is_dense(tensor.shape, wanted):
            tensor.data = laid_out(tensor.data, wanted)


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    named = [*module.named_parameters(), *module.named_buffers()]
    return [(name, tensor) for name, tensor in named if tensor.layout == torch.strided]


def _put_in_order(module: nn.Module, names: Iterable[str]) -> None:
    """Let the tensors of each module stand in the order of the file: optimizers count them."""
    order = {name: index for index, name in enumerate(names)}
    for path, part in module.named_modules():
        for tensors in (part._parameters, part._buffers):
            places = {key: order.get(f"{path}.{key}" if path else key, -1) for key in tensors}
            for key in sorted(places, key=places.__getitem__):
                tensors[key] = tensors.pop(key)
