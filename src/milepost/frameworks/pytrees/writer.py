"""The structure of a JAX model as JSON; `reader` has the way back.

    3, "text", {"bytes": ...}                            plain values
    {"tuple": [...]}, {"list": ...}, {"dict": ...}       containers; also "set", "frozenset"
    {"array": "jax"}                                     a leaf, whose dtype and shape are its own
    {"function": "jax.nn.relu"}                          one of a fixed list
    {"type": "Conv"}                                     a class of the framework's, itself
    {"custom": "Net", "module": ..., "qualname": ...}    what a program registers or passes
    {"default": "kernel_init"}                           a class's own default of that name
    {"initializer": "normal", "arguments": {...}}        what one of JAX's makers makes
    {"partial": [function, arguments, keywords]}         functools.partial
    {"Partial": {"function", "arguments", "keywords"}}   jax.tree_util.Partial
    {"module": class, "fields": [[name, node], ...]}     an object of a class

`words` and `records` have more. Each framework adds what is its own by a `Writer` and a
`Reader` of its own.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from types import MethodType
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from milepost import registry
from milepost.errors import UnsupportedObjectError
from milepost.frameworks.pytrees import SEQUENCES, called, known, records, words
from milepost.frameworks.pytrees.keys import GENERATORS, generator_of
from milepost.frameworks.pytrees.known import Vocabulary
from milepost.record import encode_plain
from milepost.state import PLAIN_TYPES, join
from milepost.tree import encode_key, key_text

_WAYS_OUT = "Or save a Checkpoint, which needs no structure"


class Writer:
    """The walk that describes a model.

    Attributes:
        custom: what is not the framework's own, by name.
        leaves: the names of the arrays.
        lost: what is left out, a sentence each.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.custom: dict[str, Any] = {}
        self.leaves: set[str] = set()
        self.lost: list[str] = []
        self._vocabulary = vocabulary

    def node(self, value: Any, path: str, owner: type | None = None) -> Any:
        """A value as JSON; `owner` is the class of which it is a field."""
        if isinstance(value, PLAIN_TYPES) and type(value) in PLAIN_TYPES:
            return encode_plain(value)
        if isinstance(value, jax.Array | jax.ShapeDtypeStruct | np.ndarray):
            return self._array(value, path)
        for kind, cls in SEQUENCES.items():
            if type(value) is cls:
                parts = sorted(value, key=repr) if kind.endswith("set") else value
                return {kind: [self.node(x, join(path, str(i))) for i, x in enumerate(parts)]}
        if type(value) is dict:
            return {"dict": self.items(value, path)}
        if type(value) is Partial:
            return {"Partial": self.partial(value, path)}
        found = (
            self.special(value, path) or words.encode(value) or records.encode(self, value, path)
        )
        return found or self._function(value, path, owner)

    def special(self, value: Any, path: str) -> dict[str, Any] | None:
        """A value that only this framework has; None if it is none."""
        return None

    def items(self, mapping: Mapping[Any, Any], path: str) -> list[Any]:
        return [[encode_key(k), self.node(v, join(path, key_text(k)))] for k, v in mapping.items()]

    def partial(self, value: Any, path: str) -> dict[str, Any]:
        """A function and what it is called with, by the names that JAX's own has for these."""
        return {
            "function": self.node(value.func, path),
            "arguments": self.node(value.args, join(path, "args")),
            "keywords": self.node(value.keywords, join(path, "keywords")),
        }

    def fields(self, value: Any, cls: type, values: Mapping[str, Any], path: str) -> dict[str, Any]:
        """An object as its class and what it has."""
        reference = self.reference(cls, path)
        items = [[name, self.node(v, join(path, name), cls)] for name, v in values.items()]
        return {"module": reference, "fields": items}

    def reference(self, cls: Any, path: str) -> dict[str, Any]:
        """A class, by its name."""
        name = self._vocabulary.class_name(cls)
        if name is not None:
            return {"type": name}
        package = self._vocabulary.package
        if cls.__module__.partition(".")[0] == package and registry.name_of(cls) is None:
            raise UnsupportedObjectError(
                f"{called(path)} is of {cls.__module__}.{cls.__qualname__}, which is not in "
                f"milepost's list of classes of {package}. If your program makes this class (by "
                "jit or vmap of one), give it a name with milepost.register(cls, name=...). "
                f"{_WAYS_OUT}"
            )
        return self._named(cls, path)

    def _array(self, value: Any, path: str) -> dict[str, Any]:
        if path in self.leaves:
            raise UnsupportedObjectError(
                f"{called(path)} is the name of two arrays: one is in a setting, or under a key "
                "with a slash. Rename it, or make it a tuple"
            )
        self.leaves.add(path)
        if isinstance(value, np.ndarray):
            return {"array": "numpy"}
        if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
            generator = str(generator_of(value))
            if generator not in GENERATORS:
                raise UnsupportedObjectError(
                    f"{called(path)} is a random key of the generator {generator!r}, which is "
                    f"not one of JAX's own. {_WAYS_OUT}"
                )
            return {"array": "key", "generator": generator}
        return {"array": "jax", "weak": True} if value.weak_type else {"array": "jax"}

    def _function(self, value: Any, path: str, owner: type | None) -> Any:
        name = path.rpartition("/")[2]
        if isinstance(value, type) and self._vocabulary.class_name(value):
            return self.reference(value, path)
        function = self._vocabulary.function_name(value)
        if function is not None:
            return {"function": function}
        if callable(value) and known.default_of(owner, name) is value:
            return {"default": name}
        made = known.initializer(value)
        if made is not None:
            arguments = {k: self.node(v, join(path, k)) for k, v in made[1].items()}
            return {"initializer": made[0], "arguments": arguments}
        if type(value) is functools.partial:
            parts = (value.func, value.args, value.keywords)
            return {"partial": [self.node(part, path) for part in parts]}
        if callable(value) and _name_of(value) is None and self._has_worked(owner, name):
            self.lost.append(
                f"the initialiser {path}, which only matters when weights are made anew"
            )
            return self.node(known.default_of(owner, name), path, owner)
        return self._named(value, path)

    def _has_worked(self, owner: type | None, name: str) -> bool:
        """Whether a field is an initialiser that no prediction calls.

        A recurrent cell calls its `carry_init` whenever it predicts. Of a class that is not the
        framework's own nobody knows.
        """
        return (
            name.endswith("_init")
            and name != "carry_init"
            and self._vocabulary.class_name(owner) is not None
            and known.default_of(owner, name) is not None
        )

    def _named(self, value: Any, path: str) -> dict[str, Any]:
        """A class or function that files know by the name under which it is registered."""
        name = _name_of(value)
        if name is None:
            kind = "function" if callable(value) else "value"
            raise UnsupportedObjectError(
                f"{called(path)} is the {kind} {value!r:.80}, of the class "
                f"{type(value).__name__}, which cannot be saved: expected a plain value, an array, "
                "a module, a dataclass or named tuple of these with nothing beside its fields, or "
                "a function of JAX's own. Give a function of your own a name with "
                f"milepost.register(function, name=...). {_WAYS_OUT}"
            )
        if self.custom.setdefault(name, value) != value:
            raise UnsupportedObjectError(
                f"{called(path)} is another {name!r} than an earlier part of the model: give one "
                "of them another name with milepost.register(..., name=...)"
            )
        home = {"module": value.__module__, "qualname": value.__qualname__}
        return {"custom": name, **home} if all(home.values()) else {"custom": name}


def _name_of(thing: Any) -> str | None:
    """The name of a class or function in files: the one it is registered by, or its own."""
    if isinstance(thing, MethodType):  # which is another object each time that it is asked for
        named = registry.registered().items()
        return next((name for name, other in named if other == thing), None)
    name = registry.name_of(thing)
    if name is None and (isinstance(thing, type) or (callable(thing) and _is_at_home(thing))):
        return str(thing.__name__)
    return name


def _is_at_home(function: Any) -> bool:
    """Whether a function stands in its module under its name, as one inside another does not."""
    found: Any = sys.modules.get(str(getattr(function, "__module__", "")))
    for part in str(getattr(function, "__qualname__", "")).split("."):
        found = getattr(found, part, None)
    return found is function
