"""States: what is captured from live objects.

A state is a flat mapping from a `/`-joined name to a leaf. A leaf is an array, or one plain
value (None, bool, int, float, str, bytes). Beside its leaves a state knows its structure
(see `tree`), and by which rules a restore may depart from a leaf-by-leaf match.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeGuard, runtime_checkable

import numpy as np

from milepost.dtypes import Array, dtype_name
from milepost.light import light
from milepost.tree import Structure, join

__all__ = [
    "NO_RULE",
    "ArrayLike",
    "InParts",
    "Leaf",
    "LeafSpec",
    "ObjectInfo",
    "Plain",
    "Rule",
    "State",
    "ancestors",
    "is_array",
    "is_in_parts",
    "is_plain",
    "join",
    "replaced_at",
    "rule_at",
    "spec_of",
    "with_ancestors",
]

Plain: TypeAlias = bool | int | float | str | bytes | None
PLAIN_TYPES = (type(None), bool, int, float, str, bytes)


@runtime_checkable
class ArrayLike(Protocol):
    """What a framework hands over as an array: described at once, converted on demand."""

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __array__(self) -> Array: ...


class InParts(ArrayLike, Protocol):
    """An array that need not be in memory as a whole: it is read anew each time."""

    def stored_parts(self) -> Iterator[memoryview]:
        """Its stored bytes, part after part, little-endian and in C order."""
        ...


Leaf: TypeAlias = Plain | ArrayLike


def is_in_parts(array: ArrayLike) -> TypeGuard[InParts]:
    """Whether an array is read part by part."""
    return hasattr(type(array), "stored_parts")  # not `isinstance`: that takes 20 microseconds


def is_plain(leaf: object) -> TypeGuard[Plain]:
    """Whether a value is a plain one. `numpy.float64` is a float to Python, an array to us."""
    return isinstance(leaf, PLAIN_TYPES) and not isinstance(leaf, np.floating)


def is_array(leaf: Leaf) -> TypeGuard[ArrayLike]:
    """Whether a leaf is an array."""
    return not is_plain(leaf)


@light
class LeafSpec:
    """What a leaf is, without its value.

    `dtype` is our name of an array's dtype (`"float32"`), or the type of a plain value
    (`"int"`, `"None"`), whose `shape` is None.
    """

    dtype: str
    shape: tuple[int, ...] | None

    @property
    def is_array(self) -> bool:
        return self.shape is not None

    def __str__(self) -> str:
        if self.shape is None:
            return self.dtype
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def spec_of(leaf: Leaf) -> LeafSpec:
    """The spec of a leaf.

    Raises:
        UnsupportedObjectError: an array whose dtype is not numeric.
    """
    if is_array(leaf):
        return LeafSpec(dtype_name(leaf.dtype), tuple(leaf.shape))
    # An IntEnum is an int on disk, and comes back as one.
    kind = next(kind for kind in PLAIN_TYPES if isinstance(leaf, kind))
    return LeafSpec("None" if leaf is None else kind.__name__, None)


class Rule(enum.Flag):
    """How a restore may depart from a match leaf by leaf, below one name of an object."""

    GROWS = enum.auto()  # plain leaves that only the snapshot has are added
    SHRINKS = enum.auto()  # plain leaves that only the object has are removed
    REPLACED = enum.auto()  # the object becomes what the snapshot says, whatever that is
    KEEPS = enum.auto()  # leaves that only the object has stay as they are
    IGNORES = enum.auto()  # leaves that only the snapshot has are left out
    OPAQUE = enum.auto()  # with REPLACED: code that is not ours takes it back, and knows what fits
    FIXED = enum.auto()  # a plain leaf whose value must be the same on both sides


NO_RULE = Rule(0)


@dataclass(frozen=True, slots=True)
class State:
    """A captured object, or several.

    Attributes:
        leaves: name -> leaf, in the order in which the object shows them.
        objects: the structure and configuration of each top-level object, by its name.
        rules: name of a subtree -> how a restore may depart from a match there.
        ties: name -> the earlier name whose memory it shares.
        immutable: the leaves whose array can never change: another value is another array.
        late: the leaves that a restore changes where they are, once nothing else can fail.
    """

    leaves: Mapping[str, Leaf]
    objects: Mapping[str, ObjectInfo] = field(default_factory=dict)
    rules: Mapping[str, Rule] = field(default_factory=dict)
    ties: Mapping[str, str] = field(default_factory=dict)
    immutable: Collection[str] = ()
    late: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a checkpoint says of one of its objects, beside the leaves.

    Attributes:
        kind: the framework module that captured it (`"keras"`, `"torch"`, `"python"`).
        structure: how its leaves nest; None where they are a plain mapping of names.
        config: what the framework needs to make an unbuilt object ready (JSON).
    """

    kind: str
    structure: Structure = None
    config: Mapping[str, Any] = field(default_factory=dict)


def ancestors(name: str) -> Iterator[str]:
    """`name` and every name above it, nearest first; last the root, which has no name."""
    yield name
    while name:
        name = name.rpartition("/")[0]
        yield name


def with_ancestors(names: Iterable[str]) -> set[str]:
    """These names and all above them."""
    found: set[str] = set()
    for name in names:
        above = name
        while above not in found:
            found.add(above)
            above = above.rpartition("/")[0]
    return found


def replaced_at(rules: Mapping[str, Rule], name: str) -> str | None:
    """The name of the outermost subtree around the leaf `name` that is replaced as a whole."""
    found = [a for a in ancestors(name) if a != name and Rule.REPLACED in rules.get(a, NO_RULE)]
    return found[-1] if found else None


def rule_at(rules: Mapping[str, Rule], name: str) -> Rule:
    """The rule that holds for the leaf `name`: the nearest above it, but REPLACED before all.

    It is the same for all leaves that are next to each other.
    """
    nearest = None
    for above in ancestors(name):
        rule = rules.get(above)
        if above == name or rule is None:
            continue
        if Rule.REPLACED in rule:
            return rule
        nearest = rule if nearest is None else nearest
    return nearest or NO_RULE
