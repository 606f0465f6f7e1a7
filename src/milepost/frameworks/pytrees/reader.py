"""The structure of a JAX model, read: from known classes and functions, and no others."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.tree_util import Partial

from milepost import dtypes
from milepost.errors import DamagedError, UnknownClassError
from milepost.frameworks.pytrees import SEQUENCES, called, known, records, struct, words
from milepost.frameworks.pytrees.keys import abstract_key
from milepost.frameworks.pytrees.known import Vocabulary
from milepost.record import decode_plain
from milepost.state import LeafSpec, join
from milepost.tree import decode_key, key_text


class Reader:
    """The walk that builds a model. Classes and functions are looked up here and nowhere else."""

    def __init__(
        self, vocabulary: Vocabulary, custom: Mapping[str, Any], specs: Mapping[str, LeafSpec]
    ) -> None:
        self._vocabulary = vocabulary
        self._custom = custom
        self._specs = specs
        self._arrays: set[str] = set()

    def value(self, node: Any, path: str, owner: type | None = None) -> Any:
        """What a node describes; its arrays are abstract, with the dtypes and shapes of leaves."""
        if not isinstance(node, dict):
            return decode_plain(node)
        for kind, cls in SEQUENCES.items():
            if kind in node:
                return cls([self.value(x, join(path, str(i))) for i, x in enumerate(node[kind])])
        if "dict" in node:
            return self.items(node["dict"], path)
        if "array" in node:
            return self.array(node, path)
        if "Partial" in node:
            return self.partial(node["Partial"], path)
        if records.KINDS & node.keys():
            return records.decode(self, node, path)
        if "default" in node:
            return known.default_of(owner, node["default"])
        if "initializer" in node:
            arguments = {k: self.value(v, join(path, k)) for k, v in node["arguments"].items()}
            return known.INITIALIZERS[node["initializer"]](**arguments)
        if "partial" in node:
            function, arguments, keywords = (self.value(part, path) for part in node["partial"])
            return functools.partial(function, *arguments, **keywords)
        if node.keys() & {"function", "type", "custom"}:
            return self.reference(node, path)
        return self.special(node, path)

    def special(self, node: dict[str, Any], path: str) -> Any:
        """A value that only this framework has, or a plain one, or a word of JAX."""
        [(kind, encoded)] = node.items()
        if kind in ("bytes", "str", "int", "float") and isinstance(encoded, str):
            return decode_plain(node)
        return words.decode(kind, encoded)

    def items(self, pairs: Any, path: str) -> dict[Any, Any]:
        keys = [(decode_key(key), child) for key, child in pairs]
        return {key: self.value(child, join(path, key_text(key))) for key, child in keys}

    def partial(self, node: Mapping[str, Any], path: str) -> Any:
        """What `Writer.partial` described."""
        function = self.value(node["function"], path)
        arguments = self.value(node["arguments"], join(path, "args"))
        make: Any = Partial
        return make(function, *arguments, **self.value(node["keywords"], join(path, "keywords")))

    def fields(self, node: dict[str, Any], cls: type, path: str) -> dict[str, Any]:
        """What an object has, by name: never one of the names that Python itself reads."""
        found = {}
        for name, child in node["fields"]:
            if not isinstance(name, str) or (name.startswith("__") and name.endswith("__")):
                raise DamagedError(f"{called(path)} has a field that cannot be: {name!r:.80}")
            found[name] = self.value(child, join(path, name), cls)
        return found

    def cls(self, node: Any, path: str) -> Any:
        """The class of an object: the framework's own, or one of its kind that was passed."""
        found = self.reference(node, path)
        if not isinstance(found, type) or not issubclass(found, self._vocabulary.bases):
            expected = " or ".join(
                f"{base.__module__}.{base.__name__}" for base in self._vocabulary.bases
            )
            raise UnknownClassError(
                f"{called(path)} is of {node.get('custom', node)!r:.80}, which is {found!r:.80}: "
                f"expected a class made from {expected}"
            )
        return found

    def reference(self, node: Any, path: str) -> Any:
        if "type" in node:
            return self._looked_up(self._vocabulary.classes, node["type"], path)
        if "function" in node:
            return self._looked_up(self._vocabulary.functions, node["function"], path)
        name = node["custom"]
        found = self._custom.get(name)
        if found is None and getattr(self._custom, "trust", False):
            found = self._custom.imported(node["module"], node["qualname"])  # type: ignore[attr-defined]
        if not callable(found):
            raise UnknownClassError(
                f"{called(path)} needs {name!r:.80}, which is none of "
                f"{self._vocabulary.package}'s own: pass custom_objects={{{name!r:.80}: ...}}, or "
                "register it with milepost.register"
            )
        return found

    def _looked_up(self, known: Mapping[str, Any], name: Any, path: str) -> Any:
        if not isinstance(name, str) or name not in known:
            raise UnknownClassError(
                f"{called(path)} needs {name!r:.80} of {self._vocabulary.package}, which milepost "
                "does not know"
            )
        return known[name]

    def array(self, node: dict[str, Any], path: str) -> Any:
        """What stands for an array until the leaf of its name takes its place."""
        kind, key = node["array"], node["array"] == "key"
        spec = self._specs.get(join(path, "data") if key else path)
        if spec is None or spec.shape is None:
            raise DamagedError(f"the structure has the array {path!r}, which the file has not")
        if path in self._arrays:  # or a small file would ask for any amount of memory
            raise DamagedError(f"the structure has the array {path!r} twice")
        self._arrays.add(path)
        dtype = dtypes.numpy_dtype(spec.dtype)
        if kind == "numpy":
            return np.zeros(spec.shape, dtype)
        if key:
            return abstract_key(struct(spec.shape, dtype), node["generator"])
        return struct(spec.shape, dtype, weak=node.get("weak") is True)
