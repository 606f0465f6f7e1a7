"""Plain values, builtin containers, dataclasses, and anything with `state_dict`."""

from __future__ import annotations

import collections
import dataclasses
import random
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from milepost import tree
from milepost.errors import UnsupportedObjectError
from milepost.frameworks.base import Capture, Saved
from milepost.state import PLAIN_TYPES, Rule, join
from milepost.tree import Structure, encode_key, key_text

# Builtin containers, subclasses before their bases.
_CONTAINERS: tuple[type, ...] = (
    *(collections.OrderedDict, collections.Counter, collections.defaultdict),
    *(dict, list, set, frozenset, collections.deque),
)


def handles(value: Any) -> bool:
    return (
        isinstance(value, (*PLAIN_TYPES, *_CONTAINERS, tuple, random.Random))
        or _is_dataclass(value)
        or _has_state_dict(value)
    )


def capture(value: Any, name: str, capture: Capture) -> Structure:
    if isinstance(value, random.Random):
        return capture.replaced(name, _random_state(value))
    if _has_state_dict(value):
        return capture.replaced(name, value.state_dict())
    if isinstance(value, PLAIN_TYPES):
        capture.leaf(name, value)
        return None
    if isinstance(value, set | frozenset):
        # A set has no order; sorting gives the same leaves the same names.
        items = enumerate(sorted(value, key=repr))
        capture.rule(name, Rule.REPLACED)
        return {_kind(value): [capture.child(join(name, str(i)), item) for i, item in items]}
    if isinstance(value, dict):
        capture.rule(name, Rule.GROWS)
    elif isinstance(value, list | collections.deque):
        capture.rule(name, Rule.GROWS | Rule.SHRINKS)
    children = []
    for key, item in _items(value):
        child = capture.child(join(name, key_text(key)), item)
        children.append(child if _is_sequence(value) else [_encoded(name, key), child])
    node: dict[str, Any] = {_kind(value): children}
    if _kind(value) in ("namedtuple", "object"):
        node["class"] = f"{type(value).__module__}.{type(value).__qualname__}"
    return node


def apply(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    if isinstance(value, random.Random):
        if saved.can_build(name, node):
            _set_random_state(value, saved.build(name, node))
        return value
    if _has_state_dict(value):
        if saved.can_build(name, node):
            value.load_state_dict(saved.build(name, node))
        return value
    if isinstance(value, PLAIN_TYPES):
        return saved.value(name, node) if saved.has(name) else value
    if isinstance(value, set | frozenset):
        return _apply_set(value, name, node, saved)
    if isinstance(value, dict):
        return _apply_dict(value, name, node, saved)
    if isinstance(value, list | collections.deque):
        return _apply_list(value, name, node, saved)
    if isinstance(value, tuple):
        parts = _apply_parts(value, name, node, saved)
        if all(a is b for a, b in zip(parts, value, strict=True)):
            return value
        return type(value)._make(parts) if hasattr(value, "_make") else type(value)(parts)
    return _apply_dataclass(value, name, node, saved)


def _apply_set(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    if node is None or not saved.can_build(name, node) or not saved.selects(name):
        return value
    items = saved.build(name, node)
    if isinstance(value, frozenset):
        return type(value)(items)
    value.clear()
    value.update(items)
    return value


def _apply_dict(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    nodes = dict(tree.children(node))
    for key in list(value):
        old = value[key]
        new = saved.child(join(name, key_text(key)), old, nodes.get(key))
        if new is not old:
            value[key] = new
    for key in [key for key in nodes if key not in value]:
        child = join(name, key_text(key))
        if saved.selects(name) and saved.can_build(child, nodes[key]):
            value[key] = saved.build(child, nodes[key])
    for key in [key for key in value if key not in nodes]:
        if saved.is_gone(join(name, key_text(key))):
            del value[key]
    return value


def _apply_list(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    parts = _apply_parts(value, name, node, saved)
    if node is not None and saved.selects(name):
        nodes = [child for _, child in tree.children(node)]
        while len(parts) > len(nodes) and saved.is_gone(join(name, str(len(parts) - 1))):
            parts.pop()
        for i in range(len(parts), len(nodes)):
            if not saved.can_build(join(name, str(i)), nodes[i]):
                break
            parts.append(saved.build(join(name, str(i)), nodes[i]))
    if len(parts) != len(value) or any(a is not b for a, b in zip(parts, value, strict=True)):
        value.clear()
        value.extend(parts)
    return value


def _apply_parts(value: Iterable[Any], name: str, node: Structure, saved: Saved) -> list[Any]:
    nodes = dict(tree.children(node))
    return [
        saved.child(join(name, key_text(key)), item, nodes.get(key)) for key, item in _items(value)
    ]


def _apply_dataclass(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    nodes = dict(tree.children(node))
    changed = {}
    for key, old in _items(value):
        new = saved.child(join(name, key_text(key)), old, nodes.get(key))
        if new is not old:
            changed[str(key)] = new
    if value.__dataclass_params__.frozen:
        return dataclasses.replace(value, **changed) if changed else value
    for field, new in changed.items():
        setattr(value, field, new)
    return value


def _items(value: Any) -> Iterable[tuple[Hashable, Any]]:
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return zip(value._fields, value, strict=True)
    if _is_sequence(value):
        return enumerate(value)
    return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]


def _kind(value: Any) -> str:
    """The kind of structure node for a container; a subclass counts as its builtin base."""
    if isinstance(value, tuple):
        return "namedtuple" if hasattr(value, "_fields") else "tuple"
    return next((kind.__name__ for kind in _CONTAINERS if isinstance(value, kind)), "object")


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | collections.deque) or (
        isinstance(value, tuple) and not hasattr(value, "_fields")
    )


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _has_state_dict(value: Any) -> bool:
    return (
        not isinstance(value, type)
        and callable(getattr(value, "state_dict", None))
        and callable(getattr(value, "load_state_dict", None))
    )


def _encoded(name: str, key: Hashable) -> Any:
    try:
        return encode_key(key)
    except UnsupportedObjectError as error:
        raise UnsupportedObjectError(f"{name}: {error}") from None


def _random_state(generator: random.Random) -> dict[str, Any]:
    version, numbers, gauss = generator.getstate()
    return {"version": version, "numbers": np.array(numbers, np.uint32), "gauss": gauss}


def _set_random_state(generator: random.Random, state: dict[str, Any]) -> None:
    generator.setstate((state["version"], tuple(state["numbers"].tolist()), state["gauss"]))
