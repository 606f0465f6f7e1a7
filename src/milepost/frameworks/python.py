"""Plain values, builtin containers, dataclasses, and anything with `state_dict`."""

from __future__ import annotations

import collections
import copy
import dataclasses
import random
from collections.abc import Callable, Hashable, Iterable
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
_SETS = (set, frozenset)
_LISTS = (list, collections.deque)


def handles(value: Any) -> bool:
    return (
        isinstance(value, (*PLAIN_TYPES, *_CONTAINERS, tuple, random.Random))
        or _is_dataclass(value)
        or _has_state_dict(value)
    )


def capture(value: Any, name: str, capture: Capture) -> Structure:
    if isinstance(value, random.Random):
        return capture.opaque(name, _random_state(name, value))
    if _has_state_dict(value):
        return capture.opaque(name, value.state_dict())
    if isinstance(value, PLAIN_TYPES):
        capture.leaf(name, value)
        return None
    if isinstance(value, _SETS):
        # A set has no order; sorting gives the same leaves the same names.
        items = enumerate(sorted(value, key=repr))
        capture.rule(name, Rule.REPLACED)
        nodes = [capture.child(join(name, str(i)), item) for i, item in items]
        _check_hashable(nodes, name)
        return {_kind(value): nodes}
    if isinstance(value, dict):
        capture.rule(name, Rule.GROWS)
    elif isinstance(value, _LISTS):
        capture.rule(name, Rule.GROWS | Rule.SHRINKS)
    children, is_sequence = [], _is_sequence(value)
    for key, item in _items(value):
        child = capture.child(join(name, key_text(key)), item)
        children.append(child if is_sequence else [_encoded(name, key), child])
    node: dict[str, Any] = {_kind(value): children}
    if isinstance(value, collections.deque) and value.maxlen is not None:
        node["maxlen"] = value.maxlen
    if _kind(value) in ("namedtuple", "object"):
        node["class"] = f"{type(value).__module__}.{type(value).__qualname__}"
    return node


def apply(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    if isinstance(value, random.Random):
        if saved.can_build(name, node):
            state = _random_state_of(saved.build(name, node))
            saved.at_once(value.setstate, state, value.getstate())
        return value
    if _has_state_dict(value):
        if saved.can_build(name, node):
            before = copy.deepcopy(value.state_dict())
            saved.at_once(value.load_state_dict, saved.build(name, node), before)
        return value
    if isinstance(value, PLAIN_TYPES):
        return saved.value(name, node) if saved.has(name) else value
    if isinstance(value, _SETS):
        return _apply_set(value, name, node, saved)
    if isinstance(value, dict):
        return _apply_dict(value, name, node, saved)
    if isinstance(value, _LISTS):
        return _apply_list(value, name, node, saved)
    if isinstance(value, tuple):
        parts = _apply_parts(value, name, node, saved)
        if all(a is b for a, b in zip(parts, value, strict=True)):
            return value
        return type(value)._make(parts) if hasattr(value, "_make") else type(value)(parts)
    return _apply_dataclass(value, name, node, saved)


def copied(value: Any, copied: Callable[[Any], Any]) -> Any:
    if isinstance(value, tuple):
        parts = [copied(part) for part in value]
        return type(value)._make(parts) if hasattr(value, "_make") else type(value)(parts)
    new: Any = value
    if isinstance(value, list | collections.deque):
        new = copy.copy(value)
        _refill_list(new, [copied(part) for part in value])
    elif isinstance(value, set):
        new = copy.copy(value)
    elif isinstance(value, dict):
        new = copy.copy(value)
        new.update({key: copied(part) for key, part in value.items()})
    elif _is_dataclass(value):
        new = copy.copy(value)
        for key, part in _items(value):
            object.__setattr__(new, str(key), copied(part))
    return new


def _apply_set(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    if node is None or not saved.can_build(name, node) or not saved.selects(name):
        return value
    items = saved.build(name, node)
    if isinstance(value, frozenset):
        return type(value)(items)
    saved.later(_refill_set, value, items)
    return value


def _refill_set(value: set[Any], items: Iterable[Any]) -> None:
    value.clear()
    value.update(items)


def _apply_dict(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    # By text, as the leaves' names are: a program may have 1 where another had "1".
    nodes = {key_text(key): (key, child) for key, child in tree.children(node)}
    here = {key_text(key): key for key in value}
    for text, key in here.items():
        old, child = value[key], join(name, text)
        new = saved.child(child, old, nodes.get(text, (None, None))[1])
        if new is not old:
            saved.later(value.__setitem__, key, new)
        elif text not in nodes and saved.is_gone(child):
            saved.later(value.pop, key, None)
    for text, (key, child_node) in nodes.items():
        child = join(name, text)
        if text not in here and saved.selects(name) and saved.can_build(child, child_node):
            saved.later(value.__setitem__, key, saved.build(child, child_node))
    if isinstance(value, collections.OrderedDict) and saved.selects(name):
        saved.later(_reorder, value, [here.get(text, key) for text, (key, _) in nodes.items()])
    return value


def _reorder(value: collections.OrderedDict[Any, Any], keys: list[Hashable]) -> None:
    for key in keys:
        if key in value:
            value.move_to_end(key)


def _apply_list(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    parts = _apply_parts(value, name, node, saved)
    if tree.kind_of(node) in tree.SEQUENCES and saved.selects(name):
        nodes = [child for _, child in tree.children(node)]
        while len(parts) > len(nodes) and saved.is_gone(join(name, str(len(parts) - 1))):
            parts.pop()
        for i in range(len(parts), len(nodes)):
            if not saved.can_build(join(name, str(i)), nodes[i]):
                break
            parts.append(saved.build(join(name, str(i)), nodes[i]))
    if len(parts) != len(value) or any(a is not b for a, b in zip(parts, value, strict=True)):
        saved.later(_refill_list, value, parts)
    return value


def _refill_list(value: Any, parts: list[Any]) -> None:
    value.clear()
    value.extend(parts)


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
        if not changed:
            return value
        # Not `dataclasses.replace`, whose constructor may compute what was restored.
        value = copy.copy(value)
        for field, new in changed.items():
            object.__setattr__(value, field, new)
        return value
    for field, new in changed.items():
        saved.later(setattr, value, field, new)
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


def _check_hashable(nodes: Iterable[Structure], name: str) -> None:
    """Raise UnsupportedObjectError unless these items can be put into a set again."""
    for node in nodes:
        kind = tree.kind_of(node)
        if kind in ("tuple", "namedtuple", "frozenset"):
            _check_hashable([child for _, child in tree.children(node)], name)
        elif node is not None and node != {"leaf": "numpy.generic"}:
            raise UnsupportedObjectError(
                f"{name} is a set that holds more than plain values and tuples of them, and could "
                "not be made again: use a list"
            )


def _random_state(name: str, generator: random.Random) -> dict[str, Any]:
    try:
        version, numbers, gauss = generator.getstate()
    except NotImplementedError:
        raise UnsupportedObjectError(
            f"{name} draws from the operating system and has no state: leave it out"
        ) from None
    return {"version": version, "numbers": np.array(numbers, np.uint32), "gauss": gauss}


def _random_state_of(state: dict[str, Any]) -> tuple[Any, ...]:
    return state["version"], tuple(state["numbers"].tolist()), state["gauss"]
