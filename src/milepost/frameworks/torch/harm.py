"""What a file cannot keep of a module: what is lost without harm, and what is refused."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from milepost.errors import UnsupportedObjectError
from milepost.frameworks.torch.modules import unwrapped
from milepost.frameworks.torch.proof import called

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
# Hooks that PyTorch's older functions make, and what to use instead.
_INSTEAD = {
    "WeightNorm": "make it with torch.nn.utils.parametrizations.weight_norm instead of "
    "torch.nn.utils.weight_norm",
    "SpectralNorm": "make it with torch.nn.utils.parametrizations.spectral_norm instead of "
    "torch.nn.utils.spectral_norm",
    "make_inputs_require_grads": "call the model's gradient_checkpointing_disable() and "
    "disable_input_require_grads()",
    "BasePruningMethod": "make the pruning permanent with torch.nn.utils.prune.remove",
}


def lost(module: nn.Module) -> tuple[str, ...]:
    """What the live object has and the file will not, a sentence each."""
    found = []
    if unwrapped(module) is not module:
        found.append(f"the {type(module).__name__} around the model: wrap it again")
    gradients = sum(parameter.grad is not None for parameter in module.parameters())
    if gradients:
        found.append(f"the gradients of {gradients} parameters: the next backward makes them")
    return tuple(found)


def refuse(module: nn.Module) -> None:
    """Refuse a module with a part that no structure can tell of.

    Raises:
        UnsupportedObjectError: the message names the part, and the way out.
    """
    for path, part in module.named_modules():
        problem = _problem(part)
        if problem:
            raise UnsupportedObjectError(
                f"{called(path, part)} {problem}, or save a Checkpoint, which needs no structure"
            )


def _problem(part: nn.Module) -> str | None:
    kind: type = type(part)
    if issubclass(kind, LazyModuleMixin):
        return (
            "has no shape yet: it is lazy, and becomes an ordinary module when it first runs: "
            "run one batch first"
        )
    if unwrapped(part) is not part:
        return (
            "is a wrapper inside of the model: wrap the whole model instead, or compile a part "
            "in place, by its own .compile()"
        )
    hooks = [hook for key in _HOOKS for hook in (getattr(part, key, None) or {}).values()]
    tensors = [t for t in (*part._parameters.values(), *part._buffers.values()) if t is not None]
    if hooks or any(getattr(tensor, key, None) for tensor in tensors for key in _TENSOR_HOOKS):
        return f"has hooks, which are code and cannot be saved: {_instead(hooks)}"
    return None


def _instead(hooks: list[Any]) -> str:
    kinds = [base.__name__ for hook in hooks for base in type(hook).__mro__]
    kinds += [str(getattr(hook, "__name__", "")) for hook in hooks]
    return next((_INSTEAD[kind] for kind in kinds if kind in _INSTEAD), "remove them first")
