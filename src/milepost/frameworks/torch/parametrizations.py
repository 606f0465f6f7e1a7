"""Parametrised tensors: which classes compute them, out as JSON and in again.

    ["weight", false, [{"norm": "weight_norm", "arguments": {"dim": 0}}]]     PyTorch's own
    ["weight", false, [{"module": node}]]                                     any other module

The tensors that they compute from are state like any other, and come from the file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations as own
from torch.nn.utils import parametrize

from milepost.errors import DamagedError
from milepost.frameworks.torch.known import class_of

# Under this name a module keeps what computes its tensors.
PARAMETRIZATIONS = "parametrizations"
# What each is called with, beside the module and the tensor's name.
_OWN: dict[str, Callable[..., Any]] = {
    "weight_norm": own.weight_norm,
    "spectral_norm": own.spectral_norm,
    "orthogonal": own.orthogonal,
}
# Of spectral_norm, at each call: people use one to ten.
_MAX_ITERATIONS = 1000


def parametrized(module: nn.Module) -> dict[str, Any]:
    """The parametrisations of a module's own tensors, by the tensor's name."""
    if not parametrize.is_parametrized(module):
        return {}
    found: Any = module.parametrizations
    return dict(found.items())


def kinds(module: nn.Module) -> dict[str, list[type]]:
    """The classes that compute a module's own tensors."""
    return {key: [class_of(part) for part in parts] for key, parts in parametrized(module).items()}


def described(part: Any) -> dict[str, Any] | None:
    """One of PyTorch's own parametrisations as JSON; None if it is another module."""
    if type(part) is own._WeightNorm:
        return {"norm": "weight_norm", "arguments": {"dim": part.dim}}
    if type(part) is own._SpectralNorm:
        # A vector is only divided by its norm, and iterates nothing.
        n = getattr(part, "n_power_iterations", 1)
        arguments = {"dim": part.dim, "eps": part.eps, "n_power_iterations": n}
        return {"norm": "spectral_norm", "arguments": arguments}
    if type(part) is own._Orthogonal:
        arguments = {
            "orthogonal_map": part.orthogonal_map.name,
            "use_trivialization": hasattr(part, "base"),
        }
        return {"norm": "orthogonal", "arguments": arguments}
    return None


def register(
    module: nn.Module, row: Any, make: Callable[[Any, int], nn.Module], plain: Callable[[Any], Any]
) -> None:
    """Let a tensor of a module be computed as it is described, as far as it is not already.

    `make` builds the module of a node, `plain` decodes an argument.
    """
    name, unsafe, steps = row
    done = len(parametrized(module).get(name, ()))
    for index, step in enumerate(steps[done:], done):
        if "module" in step:
            part = make(step["module"], index)
            parametrize.register_parametrization(module, name, part, unsafe=bool(unsafe))
            continue
        if step.get("norm") not in _OWN:
            raise DamagedError(f"{name!r} is computed by {step!r:.80}, which is no known class")
        arguments = {key: plain(value) for key, value in step["arguments"].items()}
        if not 0 < arguments.get("n_power_iterations", 1) <= _MAX_ITERATIONS:
            raise DamagedError(f"{name!r} is computed by {step!r:.80}: too many iterations")
        with torch.no_grad():
            _OWN[step["norm"]](module, name, **arguments)
