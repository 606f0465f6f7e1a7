"""What was put into a module after its constructor had run: found by building it again.

Another head on a network, a part that is shared, a parametrisation.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from torch import nn

from milepost.frameworks.torch.modules import firsts
from milepost.frameworks.torch.parametrizations import PARAMETRIZATIONS, kinds
from milepost.frameworks.torch.proof import Comparison

# Where something stands: the identity of its module, and its key there.
Places = Set[tuple[int, str]]


def changes(original: nn.Module, rebuilt: nn.Module) -> Places:
    """The places at which something else stands in a module than when it is built again.

    That is what was put there after its constructor had run. Not the places inside of it.
    """
    return _Changes(original, rebuilt).places


class _Changes:
    def __init__(self, original: nn.Module, rebuilt: nn.Module) -> None:
        self.places: set[tuple[int, str]] = set()
        self._comparison = Comparison(original, rebuilt, forgets=False)
        self._firsts = [
            firsts(module.named_modules(remove_duplicate=False)) for module in (original, rebuilt)
        ]
        self._visit(original, rebuilt, "")

    def _visit(self, a: nn.Module, b: nn.Module, path: str) -> None:
        if kinds(a) != kinds(b):
            self.places.add((id(a), PARAMETRIZATIONS))
        for key, x in a._modules.items():
            y, name = b._modules.get(key), f"{path}.{key}" if path else key
            if key == PARAMETRIZATIONS and kinds(a):
                continue
            if x is None and y is None and key in b._modules:
                continue
            if x is None or y is None or self._differ(x, y, name):
                self.places.add((id(a), key))
            elif self._firsts[0][name] == name:
                self._visit(x, y, name)

    def _differ(self, x: nn.Module, y: nn.Module, name: str) -> bool:
        mine, theirs = (found.get(name) for found in self._firsts)
        problem = mine != theirs or self._comparison.problem(x, y)
        return bool(problem) or _own_tensors(x, y) != _own_tensors(y, x)


def _own_tensors(module: nn.Module, other: nn.Module) -> dict[str, Any]:
    """The sizes of a module's tensors; not of those that either computes from others."""
    tensors = {**module._parameters, **module._buffers}
    computed = kinds(module).keys() | kinds(other).keys()
    shapes = {key: None if t is None else t.shape for key, t in tensors.items()}
    return {key: shape for key, shape in shapes.items() if key not in computed}
