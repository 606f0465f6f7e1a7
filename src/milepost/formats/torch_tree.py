"""From the value in a PyTorch pickle to leaves with names.

Names are the keys and attributes on the way, joined with `/`. A module is what its
`state_dict()` is: its parameters and persistent buffers, whose names have dots.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeAlias, TypeGuard

from milepost.encodings.pickle import Call, Global, described
from milepost.errors import DamagedError, UntrustedError
from milepost.formats.names import Unique
from milepost.formats.numpy_pickles import array_of
from milepost.formats.torch_values import Held, LeftOut, Storage, Tensor
from milepost.state import Plain, is_plain, join

Leaf: TypeAlias = Plain | Tensor | Held

_MAX_DEPTH = 100
# Of what is walked, shared values once for each name that leads to them.
_MAX_VISITS, _MAX_NAME_BYTES = 300_000, 64 << 20
_MAX_SHOWN = 200
_OF_MODULES = ("_parameters", "_buffers", "_modules")


@dataclass(slots=True)
class Tree:
    """The leaves of a value, and what is told beside them."""

    file: str
    leaves: dict[str, Leaf] = field(default_factory=dict)
    classes: dict[str, None] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    _unique: Unique = field(default_factory=Unique)
    _visits: int = 0
    _name_bytes: int = 0
    _above: list[object] = field(default_factory=list)

    def add(self, value: object, name: str = "") -> None:
        """Walk a value, the leaves of which are called `name` and what follows.

        Raises:
            DamagedError: it is too deep.
            UntrustedError: it is made to exhaust whoever walks it.
        """
        self._visits += 1
        self._name_bytes += len(name)
        if self._visits > _MAX_VISITS or self._name_bytes > _MAX_NAME_BYTES:
            raise UntrustedError(
                f"{self.file} unfolds to more than {self._visits - 1:,} values, more than any model"
            )
        children = _children(value, self.note)
        if children is None:
            self._leaf(value, name)
            return
        if any(value is other for other in self._above):
            self.left_out[name] = "it refers to itself"
            return
        if len(self._above) >= _MAX_DEPTH:
            raise DamagedError(f"{self.file} is nested deeper than {_MAX_DEPTH} at {name!r:.200}")
        self._above.append(value)
        for key, child in children:
            self.add(child, _joined(name, key))
        self._above.pop()

    def _leaf(self, value: object, name: str) -> None:
        if isinstance(value, LeftOut):
            self.leave_out(name, value.why)
            return
        if isinstance(value, Call):
            value = self._array(value, name)
            if value is None:
                return
        if isinstance(value, Storage):
            value = Tensor(value, value.dtype, value.start, (value.numel - value.start,), (1,))
        if isinstance(value, bytearray):
            value = bytes(value)
        if isinstance(value, Global):
            value = str(value)
        if not (is_plain(value) or isinstance(value, Tensor | Held)):
            self.leave_out(name, f"a {type(value).__name__} is no leaf")
            return
        name = self._unique(name or "value")
        self.leaves[name] = value

    def _array(self, call: Call, name: str) -> Held | None:
        try:
            array = array_of(call)
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            raise DamagedError(f"{self.file}, leaf {name!r:.200}: {error!s:.200}") from None
        if array is None:
            self.leave_out(name, f"what {call.function!s:.80} makes of it is no array of numbers")
            return None
        return Held(array)

    def note(self, cls: str) -> None:
        """Tell of a class that the file names."""
        if len(self.classes) < _MAX_SHOWN:
            self.classes[_printable(cls)[:200]] = None

    def leave_out(self, name: str, why: str) -> None:
        """Tell of something that is no leaf."""
        if len(self.left_out) < _MAX_SHOWN:
            self.left_out[name[:500]] = why

    def facts(self) -> dict[str, Any]:
        """The classes that it names, and what it has that is no leaf."""
        found: dict[str, Any] = {}
        if self.classes:
            found["classes"] = list(self.classes)
        if self.left_out:
            found["left_out"] = dict(self.left_out)
        return found


_Children: TypeAlias = Iterator[tuple[object, object]]


def _children(value: object, note: Callable[[str], None]) -> _Children | None:
    """The (key, child)s of a container; None of what is none."""
    if isinstance(value, dict):
        return iter(value.items())
    if isinstance(value, list | tuple):
        return iter(enumerate(value))
    if isinstance(value, set | frozenset):
        return iter(enumerate(sorted(value, key=_sort_key)))
    if is_object(value):
        note(str(value.function))
        module = _module(value)
        if module is not None:
            return _module_leaves(module, note)
        return chain(enumerate(value.items), value.pairs, attributes(value).items())
    return None


def _sort_key(value: object) -> tuple[str, str]:
    return type(value).__name__, described(value)


def is_object(value: object) -> TypeGuard[Call]:
    """Whether it is an object of a class, of which only the name is known."""
    return isinstance(value, Call) and value.new


def attributes(value: Call) -> dict[Any, Any]:
    """The attributes of an object: its state, or of one with slots both its parts."""
    if isinstance(value.state, dict):
        return value.state
    parts = value.state if isinstance(value.state, tuple) and len(value.state) == 2 else ()
    found: dict[Any, Any] = {}
    for part in parts:
        if isinstance(part, dict):
            found.update(part)
    return found


def _module(value: object) -> dict[Any, Any] | None:
    """The attributes of an object that is a `torch.nn.Module`."""
    state = value.state if is_object(value) else None
    if isinstance(state, dict) and all(isinstance(state.get(key), dict) for key in _OF_MODULES):
        return state
    return None


def _module_leaves(module: dict[Any, Any], note: Callable[[str], None]) -> _Children:
    """The parameters and persistent buffers of a module and of those inside of it."""
    work = [("", module, 0)]
    budget = Budget("a file")
    while work:
        prefix, state, depth = work.pop()
        hidden = state.get("_non_persistent_buffers_set")
        hidden = hidden if isinstance(hidden, set | frozenset | list) else ()
        budget.spend(prefix, depth, len(hidden))
        hidden = {key for key in hidden if isinstance(key, str)}
        for kind in ("_parameters", "_buffers"):
            for key, value in state[kind].items():
                budget.spend(prefix, depth)
                if value is not None and not (kind == "_buffers" and key in hidden):
                    yield f"{prefix}{key_text(key)}", value
        inner = []
        for key, child in state["_modules"].items():
            budget.spend(prefix, depth)
            attributes_of_child = _module(child)
            if attributes_of_child is not None:
                note(str(child.function))
                inner.append((f"{prefix}{key_text(key)}.", attributes_of_child, depth + 1))
        work.extend(reversed(inner))


@dataclass(slots=True)
class Budget:
    """What walking the modules of a file may cost: a shared one may be in as many places."""

    file: str
    _steps: int = 0
    _bytes: int = 0

    def spend(self, prefix: str, depth: int, steps: int = 1) -> None:
        """Take further steps below `prefix`, or raise UntrustedError."""
        self._steps += steps
        self._bytes += len(prefix)
        if depth > _MAX_DEPTH or self._steps > _MAX_VISITS or self._bytes > _MAX_NAME_BYTES:
            raise UntrustedError(f"{self.file} has modules that are nested without end")


def _joined(name: str, key: object) -> str:
    return join(name, key_text(key))


def key_text(key: object) -> str:
    """How a key reads inside a name."""
    if isinstance(key, str):
        return _printable(key) if key else "''"
    if isinstance(key, tuple):
        return "(" + ", ".join(map(key_text, key)) + ")"
    if key is None or isinstance(key, bool | int | float | bytes | Global):
        return str(key)
    return f"a {type(key).__name__}"


def _printable(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)[1:-1]
