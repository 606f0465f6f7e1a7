"""Whether a module that was built again is the one it was described from."""

from __future__ import annotations

import cmath
from typing import Any

import numpy as np
import torch
from torch import nn

from milepost.frameworks.torch.known import class_of
from milepost.frameworks.torch.memory import overlap
from milepost.frameworks.torch.modules import firsts
from milepost.frameworks.torch.parts import ATOMS, Opaque, attributes, notes, parts
from milepost.frameworks.torch.tensors import to_array

_MISSING = object()


def difference(original: nn.Module, rebuilt: nn.Module, *, forgets: bool) -> str | None:
    """The first thing in which two modules differ, values of the state apart; None if nothing.

    `forgets`: an argument of a constructor may have had a value that is not known. Then what
    cannot be compared counts as different.
    """
    mine = dict(original.named_modules(remove_duplicate=False))
    theirs = dict(rebuilt.named_modules(remove_duplicate=False))
    comparison = Comparison(original, rebuilt, forgets)
    for name in [*mine, *theirs]:
        if name not in mine or name not in theirs:
            where = "" if name in theirs else "not "
            return (
                f"the module {name!r} is {where}in the model when it is built again from its class"
            )
        problem = comparison.problem(mine[name], theirs[name])
        if problem:
            return f"{called(name, mine[name])} comes out with {problem}"
    if list(mine) != list(theirs):
        return "the model comes out with its modules in another order"
    return _tensor_difference(original, rebuilt, comparison) or _sharing_difference(
        original, rebuilt
    )


def called(path: str, module: nn.Module) -> str:
    """A module in a message."""
    name = class_of(module).__name__
    return f"the module {path!r} ({name})" if path else f"the model ({name})"


class Comparison:
    """Compares what two modules hold; what the module around them registers goes by its name."""

    def __init__(self, original: nn.Module, rebuilt: nn.Module, forgets: bool) -> None:
        self._mine, self._theirs = _names(original), _names(rebuilt)
        self._forgets = forgets
        # Pairs that were met: values may hold each other. Kept, so that no id is used again.
        self._met: dict[tuple[int, int], tuple[Any, Any]] = {}

    def problem(self, a: nn.Module, b: nn.Module) -> str | None:
        if class_of(a) is not class_of(b):
            return f"the class {class_of(b).__name__} instead of {class_of(a).__name__}"
        # What a list of parameters prints is their dtypes and devices, which come with the values.
        printed = not isinstance(a, nn.ParameterList | nn.ParameterDict)
        if printed and a.extra_repr() != b.extra_repr():
            return f"{b.extra_repr()!r} instead of {a.extra_repr()!r}"
        return self.attributes_problem(attributes(a), attributes(b))

    def attributes_problem(self, mine: dict[str, Any], theirs: dict[str, Any]) -> str | None:
        for key in [*mine, *theirs]:
            x, y = mine.get(key, _MISSING), theirs.get(key, _MISSING)
            if x is _MISSING or y is _MISSING:
                return f"{'an' if x is _MISSING else 'no'} attribute {key!r}"
            same = self._same(x, y)
            if same is False:
                return f"{key}={_shown(y)} instead of {_shown(x)}"
            if same is None and self._forgets:
                return f"{key}={_shown(y)}, which cannot be compared with what it was"
        return None

    def _same(self, a: Any, b: Any) -> bool | None:
        """Whether two values are the same; None if nobody can tell."""
        a, b = _plain(a), _plain(b)
        if a is b:
            return True
        if type(a) is not type(b):
            return False
        if isinstance(a, ATOMS):
            return bool(a == b or (_is_nan(a) and _is_nan(b)))
        names = self._mine.get(id(a)), self._theirs.get(id(b))
        if names != (None, None):
            return names[0] == names[1]
        if isinstance(a, torch.Tensor):
            return _equal(a, b)
        if (id(a), id(b)) in self._met:
            return True
        self._met[id(a), id(b)] = a, b
        equal = _says_equal(a, b)
        return True if equal else self._same_parts(a, b, equal)

    def _same_parts(self, a: Any, b: Any, otherwise: bool | None) -> bool | None:
        try:
            mine, theirs = parts(a), parts(b)
            if len(mine) != len(theirs):
                return False
            results = [self._same(x, y) for x, y in zip(mine, theirs, strict=True)]
        except (Opaque, RecursionError):
            return otherwise
        if False in results:
            return False
        return None if None in results else True


def _names(module: nn.Module) -> dict[int, str]:
    """The first name of each module, parameter and buffer, by its identity."""
    named: list[tuple[str, Any]] = [
        *module.named_modules(),
        *module.named_parameters(),
        *module.named_buffers(),
    ]
    return {id(thing): name for name, thing in named}


def _plain(value: Any) -> Any:
    """Python's number for NumPy's: arguments are saved as the former."""
    return value.item() if isinstance(value, np.generic) else value


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | complex) and cmath.isnan(value)


def _says_equal(a: Any, b: Any) -> bool | None:
    """What the values' own `==` says; None if there is none. Containers' is about items."""
    equality: Any = type(a).__eq__
    if equality is object.__eq__ or isinstance(a, list | tuple | dict | np.ndarray):
        return None
    try:
        return bool(a == b)
    except Exception:  # whatever a class of the user's raises
        return None


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool | None:
    if a.dtype != b.dtype or a.shape != b.shape or a.is_meta or b.is_meta:
        return False
    try:
        return to_array(a).tobytes() == to_array(b).tobytes()
    except (KeyError, TypeError, RuntimeError):  # quantised, sparse
        return None


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.80}"
    except Exception:  # whatever a class of the user's raises
        return f"a {type(value).__name__}"


def _tensor_difference(a: nn.Module, b: nn.Module, comparison: Comparison) -> str | None:
    mine, theirs = a.state_dict(keep_vars=True), b.state_dict(keep_vars=True)
    for name in [*mine, *theirs]:
        if name not in mine or name not in theirs:
            where = "lacks" if name in mine else "gains"
            return f"the model {where} {name!r} when it is built again from its class"
        x, y = mine[name], theirs[name]
        if not isinstance(x, torch.Tensor):
            return f"{name!r} is extra state that is no tensor"
        if x.shape != y.shape or type(x) is not type(y):
            return f"{name!r} comes out as {list(y.shape)} instead of {list(x.shape)}"
        if problem := comparison.attributes_problem(notes(x), notes(y)):
            return f"the tensor {name!r} comes out with {problem}"
    if list(mine) != list(theirs):
        return "the model comes out with its tensors in another order"
    loose, others = (dict(m.named_buffers(remove_duplicate=False)) for m in (a, b))
    for name in [*loose, *others]:
        if name in mine:
            continue
        if name not in loose or name not in others or not _equal(loose[name], others[name]):
            return (
                f"the buffer {name!r} is not saved (persistent=False) and comes out different: "
                "make it persistent, or let the constructor compute what it holds"
            )
    return None


def _sharing_difference(a: nn.Module, b: nn.Module) -> str | None:
    for kind in ("named_modules", "named_parameters", "named_buffers"):
        mine, theirs = (firsts(getattr(m, kind)(remove_duplicate=False)) for m in (a, b))
        for name, first in mine.items():
            if theirs[name] != first:
                return (
                    f"{name!r} and {max(first, theirs[name], key=len)!r} are "
                    f"{'two' if first == name else 'one'} in the model, and "
                    f"{'one' if first == name else 'two'} when it is built again"
                )
    pair = overlap(a.state_dict(keep_vars=True)) or overlap(b.state_dict(keep_vars=True))
    if pair:
        return (
            f"{pair[0]!r} and {pair[1]!r} are different tensors over the same memory, which "
            "cannot be saved: use one parameter in both places"
        )
    return None
