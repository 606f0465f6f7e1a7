"""Structure: how leaves nest, as JSON.

A state is flat, but a checkpoint keeps the containers it came from, so that integer keys
stay integers and tuples stay tuples. A node is None for a NumPy array or a plain value,
`{"leaf": "torch"}` for the array of another framework, or the kind of a container:

    {"dict": [[key, node], ...]}        also OrderedDict, defaultdict, Counter
    {"list": [node, ...]}               also tuple, set, frozenset, deque (with "maxlen")
    {"namedtuple": [[field, node], ...], "class": "optax.ScaleByAdamState"}
    {"object": [[key, node], ...], "class": "mypackage.Params"}

A key is a string or an integer as JSON, or `{"tuple": [...]}`, `{"bool": ...}`,
`{"float": ...}`, `{"none": true}`. The name of a child is its parent's name, a slash and the
key as text; in a sequence the key is the position.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeAlias

from milepost.errors import DamagedError, UnsupportedObjectError
from milepost.limits import is_writable

# None, or a JSON object as described above; Any because JSON has no better type.
Structure: TypeAlias = dict[str, Any] | None
# What gives the value of a leaf while containers are built, from its name and node.
LeafMaker: TypeAlias = Callable[[str, Structure], Any]

SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
}
MAPPINGS: dict[str, Callable[[dict[Any, Any]], Any]] = {
    "dict": dict,
    "OrderedDict": collections.OrderedDict,
    "Counter": collections.Counter,
    # Its factory is code, which no file of ours holds: it comes back as a plain dict.
    "defaultdict": dict,
}
_RECORDS = ("namedtuple", "object")


def join(name: str, key: str) -> str:
    """The name of the child `key` of the subtree `name`."""
    return f"{name}/{key}" if name else key


def key_text(key: Hashable) -> str:
    """How a key reads inside a leaf's name."""
    return key if isinstance(key, str) else repr(key)


def encode_key(key: Hashable) -> Any:
    """A container's key as JSON.

    Raises:
        UnsupportedObjectError: the key is no string, number, boolean, None or tuple of these.
    """
    if isinstance(key, bool):
        return {"bool": key}
    if type(key) is int or (type(key) is str and is_writable(key)):
        return key
    if type(key) is float and math.isfinite(key):
        return {"float": key}
    if key is None:
        return {"none": True}
    if type(key) is tuple:
        return {"tuple": [encode_key(part) for part in key]}
    raise UnsupportedObjectError(
        f"the key {key!r} of type {type(key).__name__} cannot be saved: "
        "use strings, integers, or tuples of them as keys"
    )


def decode_key(encoded: Any) -> Hashable:
    """The key that `encode_key` wrote."""
    if type(encoded) is str or type(encoded) is int:
        return encoded
    if isinstance(encoded, dict) and len(encoded) == 1:
        [(kind, value)] = encoded.items()
        if kind == "bool" and isinstance(value, bool):
            return value
        if kind == "float" and isinstance(value, float):
            return value
        if kind == "none":
            return None
        if kind == "tuple" and isinstance(value, list):
            return tuple(decode_key(part) for part in value)
    raise DamagedError(f"the structure has a key that is none: {encoded!r}")


def kind_of(node: Structure) -> str:
    """The kind of container that a node describes, or `"leaf"`."""
    if node is None:
        return "leaf"
    if isinstance(node, dict):
        for kind in node:
            if kind == "leaf" or kind in SEQUENCES or kind in MAPPINGS or kind in _RECORDS:
                return kind
    raise DamagedError(f"the structure has a container of unknown kind: {node!r:.80}")


def children(node: Structure) -> Iterator[tuple[Hashable, Structure]]:
    """The (key, node) pairs of a container; a sequence's keys are its positions."""
    kind = kind_of(node)
    if node is None or kind == "leaf":
        return
    items = node[kind]
    if not isinstance(items, list):
        raise DamagedError(f"the structure has a {kind} that is not a list of children")
    if kind in SEQUENCES:
        yield from enumerate(items)
        return
    for item in items:
        if not isinstance(item, list) or len(item) != 2:
            raise DamagedError(f"the structure has a {kind} whose child is no pair")
        yield decode_key(item[0]), item[1]


def leaf_names(node: Structure, name: str) -> Iterator[str]:
    """The names of all leaves below `name`."""
    if kind_of(node) == "leaf":
        yield name
    for key, child in children(node):
        yield from leaf_names(child, join(name, key_text(key)))


def containers(node: Structure, name: str) -> Iterator[tuple[str, str]]:
    """The (name, kind) of all containers at and below `name`, empty ones too."""
    kind = kind_of(node)
    if kind == "leaf":
        return
    yield name, kind
    for key, child in children(node):
        if child is not None:
            yield from containers(child, join(name, key_text(key)))


def build(node: Structure, name: str, leaf: LeafMaker) -> Any:
    """The containers that `node` describes, filled with `leaf(name, node)` for each leaf.

    Only builtin containers are made: a named tuple becomes one of the same name and fields,
    an object of another class a dict of its parts. Nothing is imported.
    """
    kind = kind_of(node)
    if node is None or kind == "leaf":
        return leaf(name, node)
    items = list(children(node))
    parts = {key: build(child, join(name, key_text(key)), leaf) for key, child in items}
    if len(parts) != len(items):
        raise DamagedError(f"the structure has a {kind}, {name!r}, with a key twice")
    if kind in SEQUENCES:
        return _sequence(kind, list(parts.values()), node)
    if kind in MAPPINGS:
        return MAPPINGS[kind](parts)
    if kind == "namedtuple":
        return _named_tuple(str(node.get("class", "")), parts)
    return parts


def _sequence(kind: str, parts: list[Any], node: dict[str, Any]) -> Any:
    try:
        if kind == "deque":
            return collections.deque(parts, node.get("maxlen"))
        return SEQUENCES[kind](parts)
    except (TypeError, ValueError) as error:  # a set of lists, a negative length
        raise DamagedError(f"the structure has a {kind} that cannot be: {error}") from None


def _named_tuple(class_name: str, parts: dict[Hashable, Any]) -> Any:
    fields = [str(key) for key in parts]
    simple = class_name.rpartition(".")[2]
    try:
        made = collections.namedtuple(simple, fields, rename=True)  # type: ignore[misc]
    except (ValueError, SyntaxError) as error:
        raise DamagedError(f"the structure has a named tuple that cannot be: {error}") from None
    if list(made._fields) != fields:  # `rename` is for what it made itself: `_1`
        raise DamagedError(f"the structure has a named tuple that cannot be: {fields!r:.80}")
    return made(*parts.values())
