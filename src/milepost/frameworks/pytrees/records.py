"""Values of a program's own classes among a model's settings and parameters.

    {"enum": class, "member": "RELU"}
    {"namedtuple": class, "items": [[name, node], ...]}
    {"dataclass": class, "items": [[name, node], ...]}
    {"ordered": [[key, node], ...]}                      collections.OrderedDict
    {"spec": [...]}                                      jax.sharding.PartitionSpec

No constructor runs: a file says what a value has, not how to make it.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jax.sharding import PartitionSpec

from milepost import registry
from milepost.errors import UnknownClassError
from milepost.frameworks.pytrees import called
from milepost.state import join

if TYPE_CHECKING:
    from milepost.frameworks.pytrees.reader import Reader
    from milepost.frameworks.pytrees.writer import Writer

KINDS = {"enum", "namedtuple", "dataclass", "ordered", "spec"}


def encode(writer: Writer, value: Any, path: str) -> dict[str, Any] | None:
    """A value as JSON; None if it is of no such class."""
    cls = type(value)
    if isinstance(value, enum.Enum):
        if cls.__members__.get(str(value.name)) is not value:  # several flags at once
            return None
        return {"enum": writer.reference(cls, path), "member": value.name}
    if cls is collections.OrderedDict:
        return {"ordered": writer.items(value, path)}
    if isinstance(value, PartitionSpec):
        return {"spec": [writer.node(part, path) for part in value]}
    kind = "namedtuple" if _is_namedtuple(cls) else "dataclass"
    names = _names(cls)
    if names is None or not _has_just(value, names):
        return None
    items = [[name, writer.node(getattr(value, name), join(path, name))] for name in names]
    return {kind: writer.reference(cls, path), "items": items}


def decode(reader: Reader, node: dict[str, Any], path: str) -> Any:
    """The value that `encode` described.

    Raises:
        UnknownClassError: its class is not known, or not of the kind that it has to be.
    """
    if "ordered" in node:
        return collections.OrderedDict(reader.items(node["ordered"], path))
    if "spec" in node:
        spec: Any = PartitionSpec
        return spec(*(reader.value(part, path) for part in node["spec"]))
    [kind] = KINDS & node.keys()
    cls: Any = reader.reference(node[kind], path)
    if kind == "enum":
        _expect(isinstance(cls, enum.EnumType), cls, "an enumeration", path)
        return cls.__members__[node["member"]]
    names = _names(cls)
    _expect(names is not None and _is_namedtuple(cls) == (kind == "namedtuple"), cls, kind, path)
    items = {str(name): reader.value(child, join(path, str(name))) for name, child in node["items"]}
    _expect(list(items) == names, cls, f"{kind} of {', '.join(items)}", path)
    if kind == "namedtuple":
        return tuple.__new__(cls, items.values())
    value = object.__new__(cls)
    for name, part in items.items():
        object.__setattr__(value, name, part)
    return value


def _names(cls: Any) -> list[str] | None:
    """The fields of a named tuple or a dataclass; None if it is neither."""
    if not isinstance(cls, type):
        return None
    if _is_namedtuple(cls):
        return list(cls._fields)  # type: ignore[attr-defined]
    return (
        [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else None
    )


def _has_just(value: Any, names: list[str]) -> bool:
    """Whether its fields are all that a value has, beside what can be computed again."""
    more = getattr(value, "__dict__", {}).keys() - {*names, registry.ARGUMENTS}
    cached = {n for n in more if isinstance(getattr(type(value), n, None), cached_property)}
    return more == cached and all(hasattr(value, name) for name in names)


def _is_namedtuple(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, tuple) and hasattr(cls, "_fields")


def _expect(condition: bool, cls: Any, what: str, path: str) -> None:
    if not condition:
        raise UnknownClassError(f"{called(path)} is of {cls!r:.80}: expected {what}")
