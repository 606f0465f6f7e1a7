"""What every framework module does, and the two walks that call it.

A framework is a module with three verbs:

    handles(value)                              is this object mine?
    capture(value, name, capture) -> Structure  hand its leaves to `capture`
    apply(value, name, node, saved) -> value    put the saved leaves into it

and some of these, where they apply:

    parameter_names(value, name) -> {id: name}  what an optimizer may call its parameters
    other_names(value, name) -> {leaf: names}   what its framework's own files call its leaves
    prepare(value, name, config, names, objects)  make leaves exist that the snapshot has
    global_generators(wanted) -> {name: object} its global random generators: those in use,
                                                and those whose names are wanted
    ARRAYS = {kind: make}                       what makes its kind of array of a NumPy one
    is_model(value)                             is it a whole model? By default, what can be called
    describe(model) -> ModelParts               a whole model's structure, as JSON and files
    build(structure, assets, custom, specs)     the model again, values aside
    predict(model, inputs) -> outputs           what a model makes of an example, not training
    surroundings(model) -> {name: value}        on what its predictions' bits depend, beside
                                                versions: the backend, the kind of device
    export(model, inputs, signature) -> Program the model as a portable program
    hub_files(structure) -> {name: bytes}       what the Hugging Face Hub keeps beside weights
    copied(value, copied) -> value              the same with containers and arrays of its own

`apply` returns the object, to be changed in place where it can be changed; what cannot be
(a JAX array, a tuple) is returned anew. It changes nothing itself: it hands every change to
`saved.later`, and all are made once nothing can fail any more. Only what code that is not
ours takes back is changed at once, by `saved.at_once`, which knows how to undo it.

A leaf that was captured as `late` is one whose array `apply` changes where it is, by
`saved.place`: then its value need not be read before its time has come, and a restore needs
no memory for a second copy of the state.

Containers call `capture.child` and `saved.child` for what they hold, so frameworks nest freely
and none knows another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from milepost import tree
from milepost.dtypes import Array, dtype_name
from milepost.errors import UnsupportedObjectError
from milepost.light import light
from milepost.limits import is_writable
from milepost.state import (
    NO_RULE,
    Leaf,
    ObjectInfo,
    Plain,
    Rule,
    State,
    is_array,
    join,
    with_ancestors,
)
from milepost.tree import Structure


@dataclass(frozen=True, slots=True)
class ModelParts:
    """A whole model, apart from its leaves.

    Attributes:
        structure: what `build` needs to make it again (JSON). Its key `"needs"`, if there is
            one, lists what a program has to register or pass first.
        assets: files by name, by content.
        lost: what the live object has and the file will not, a sentence each.
    """

    structure: dict[str, Any]
    assets: dict[str, bytes] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


class Framework(Protocol):
    """A framework module, as the walks see it."""

    def handles(self, value: Any) -> bool: ...
    def capture(self, value: Any, name: str, capture: Capture) -> Structure: ...
    def apply(self, value: Any, name: str, node: Structure, saved: Saved) -> Any: ...


Finder = Callable[[Any], Framework | None]


class Capture:
    """The walk over live objects that collects a state."""

    def __init__(self, objects: Mapping[str, Any], find: Finder) -> None:
        self.objects = objects  # all of the checkpoint, so that an optimizer can find its model
        self._find = find
        self._leaves: dict[str, Leaf] = {}
        self._rules: dict[str, Rule] = {}
        self._ties: dict[str, str] = {}
        self._memory: dict[Any, str] = {}
        self._immutable: set[str] = set()
        self._late: set[str] = set()
        self._replacing = 0
        self._configs: dict[str, dict[str, Any]] = {}
        self._open: set[int] = set()

    def parameter_names(self) -> dict[int, str]:
        """The names of the parameters of all models in the checkpoint, by their id."""
        return parameter_names(self.objects, self._find)

    def state(self, objects: Mapping[str, ObjectInfo]) -> State:
        """Everything that was collected; `objects` describes each top-level one."""
        return State(
            self._leaves, objects, self._rules, self._ties, self._immutable, frozenset(self._late)
        )

    def child(self, name: str, value: Any) -> Structure:
        """Capture a part, whatever its framework; returns its structure."""
        framework = self.framework(name, value)
        if id(value) in self._open:
            raise UnsupportedObjectError(f"{name} contains itself, and cannot be saved")
        self._open.add(id(value))
        try:
            structure = framework.capture(value, name, self)
        finally:
            self._open.discard(id(value))
        if name not in self._leaves:
            self._rules.setdefault(name, NO_RULE)  # rules of what is above end here
        return structure

    def replaced(self, name: str, value: Any, *, late: bool = False) -> Structure:
        """Capture containers that a restore replaces as a whole, whatever they hold then.

        `late` says that arrays in them may stay, and be changed where they are.
        """
        return self._replaced(name, value, Rule.REPLACED, late=late)

    def opaque(self, name: str, value: Any) -> Structure:
        """Capture what an object hands out and takes back whole, whatever it holds then."""
        return self._replaced(name, value, Rule.REPLACED | Rule.OPAQUE, late=False)

    def _replaced(self, name: str, value: Any, rule: Rule, *, late: bool) -> Structure:
        self._replacing += not late
        structure = self.child(name, value)
        self._replacing -= not late
        self.rule(name, rule)
        return structure

    def framework(self, name: str, value: Any) -> Framework:
        """The framework of a part.

        Raises:
            UnsupportedObjectError: there is none; the message names the leaf.
        """
        framework = self._find(value)
        if framework is None:
            raise UnsupportedObjectError(unsupported(name, value))
        return framework

    def leaf(
        self,
        name: str,
        value: Leaf,
        *,
        memory: Any = None,
        immutable: bool = False,
        late: bool = False,
    ) -> None:
        """One leaf. `memory` is the same for leaves that share their memory.

        `immutable` says that this array can never change: another value is another object.
        `late` says that a restore changes it where it is, by `Saved.place`.
        """
        if name in self._leaves:
            raise UnsupportedObjectError(
                f"two leaves have the name {name!r}: rename one of their keys"
            )
        if not is_writable(name):
            raise UnsupportedObjectError(f"{name!r} is no name: it has no UTF-8 form")
        if is_array(value):
            try:
                dtype_name(value.dtype)
            except UnsupportedObjectError as error:
                raise UnsupportedObjectError(f"{name}: {error}") from None
        self._leaves[name] = value
        if immutable:
            self._immutable.add(name)
        if late and not self._replacing:
            self._late.add(name)
        if memory is not None and self._memory.setdefault(memory, name) != name:
            self._ties[name] = self._memory[memory]

    def rule(self, name: str, rule: Rule) -> None:
        """How a restore may depart from a match below `name`."""
        self._rules[name] = rule

    def configure(self, name: str, config: dict[str, Any]) -> None:
        """What `prepare` will need to make the object `name` ready (JSON values)."""
        self._configs[name] = config

    def config(self, name: str) -> dict[str, Any]:
        return self._configs.get(name, {})


@light
class Placed:
    """A late leaf that has found its place.

    Attributes:
        name: in the live objects.
        change: what to call with its value, if it is not read `into` memory.
        into: the memory that its value is read into: of its dtype and shape.
    """

    name: str
    change: Callable[[Array], object]
    into: Array | None


class Late(Protocol):
    """The leaves that are read when all have found their places; before, if they are asked for."""

    def __contains__(self, name: object) -> bool: ...
    def __iter__(self) -> Iterator[str]: ...
    def __getitem__(self, name: str) -> Array: ...
    def read(self, placed: Sequence[Placed]) -> None: ...


@dataclass(slots=True)
class Saved:
    """The walk that puts saved leaves into live objects.

    Attributes:
        leaves: name in the live objects -> value, for every leaf that is to be restored; of
            late ones, read when it is asked for.
        objects: all objects of the checkpoint.
        removed: leaves of the live objects that the restore takes away.
        kept: leaves of the live objects that stay as they are.
        makers: framework -> what makes its kind of array of a NumPy one.
        selects: whether a restore limited to some names includes this subtree.
        late: the leaves that are read when all have found their places.
        taken: the leaves whose values were asked for.
    """

    leaves: Mapping[str, Plain | Array]
    objects: Mapping[str, Any]
    find: Finder
    removed: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    makers: Mapping[str, Callable[[Array], Any]] = field(default_factory=dict)
    selects: Callable[[str], bool] = lambda _: True
    late: Late | None = None
    taken: set[str] = field(default_factory=set)
    _gone: set[str] | None = None
    _placed: list[Placed] = field(default_factory=list)
    _changes: list[Callable[[], object]] = field(default_factory=list)
    _undo: list[Callable[[], object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.leaves = _Watched(self.leaves, self.taken, self.late)

    def place(self, name: str, change: Callable[[Array], object], into: Array | None) -> None:
        """Change the live array of a leaf, when all leaves have found their places.

        If it is a late one and `into` is its memory (see `Placed`), its value is read there;
        else `change` is called with its value.
        """
        if not self.is_late(name):
            self.later(change, self.leaves[name])
            return
        self.taken.add(name)
        self._placed.append(Placed(name, change, into))

    def later(self, change: Callable[..., object], *arguments: Any) -> None:
        """Make a change to a live object when all leaves have found their places.

        Where it is interrupted, it is made again, from its beginning.
        """
        self._changes.append(functools.partial(change, *arguments))

    def at_once(self, change: Callable[[Any], object], new: Any, before: Any) -> None:
        """Call `change(new)`, code that may fail, and `change(before)` if the restore fails."""
        self._undo.append(functools.partial(change, before))
        change(new)

    def finish(self) -> None:
        """Make the changes that wait. If that is interrupted, it can be called once more."""
        if self.late is not None:
            self.late.read(self._placed)
        for change in self._changes:
            change()

    def put_back(self) -> None:
        """Undo what was changed at once."""
        for undo in reversed(self._undo):
            with contextlib.suppress(Exception):  # what failed to change may fail to change back
                undo()

    def child(self, name: str, value: Any, node: Structure) -> Any:
        """Restore a part, whatever its framework."""
        framework = self.find(value)
        assert framework is not None, f"{name} was captured, so it has a framework"
        return framework.apply(value, name, node, self)

    def has(self, name: str) -> bool:
        """Whether this leaf is to be restored."""
        return name in self.leaves

    def is_late(self, name: str) -> bool:
        """Whether the value of this leaf need not be read before all have found their places."""
        return self.late is not None and name in self.late

    def parameter_names(self) -> dict[int, str]:
        """The names of the parameters of all models in the checkpoint, by their id."""
        return parameter_names(self.objects, self.find)

    def can_build(self, name: str, node: Structure) -> bool:
        """Whether every leaf of a saved subtree is to be restored."""
        return all(leaf in self.leaves for leaf in tree.leaf_names(node, name))

    def build(self, name: str, node: Structure) -> Any:
        """A saved subtree as new builtin containers."""
        return tree.build(node, name, self.value)

    def value(self, name: str, node: Structure) -> Any:
        """A saved leaf as it stood in its container: an array of its framework, if imported."""
        value = self.leaves[name]
        make = self.makers.get(node["leaf"]) if node else None
        return make(value) if make and isinstance(value, np.ndarray) else value

    def is_gone(self, name: str) -> bool:
        """Whether a subtree of a live object has leaves, and the restore removes them all."""
        if self._gone is None:
            above_kept = with_ancestors(self.kept) | with_ancestors(self.leaves)
            self._gone = with_ancestors(self.removed) - above_kept
        return name in self._gone


class _Watched(dict[str, Any]):
    """Leaves that remember which of them were asked for; late ones are read only then."""

    def __init__(
        self, leaves: Mapping[str, Plain | Array], taken: set[str], late: Late | None
    ) -> None:
        super().__init__(leaves)
        self.update(dict.fromkeys(late or ()))
        self._taken, self._late = taken, late

    def __getitem__(self, name: str) -> Any:
        self._taken.add(name)
        if self._late is not None and name in self._late:
            return self._late[name]
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:
            return default
        return self[name]


def parameter_names(objects: Any, find: Finder, name: str = "") -> dict[int, str]:
    """The names of the parameters of every model among `objects`, by the parameter's id."""
    if isinstance(objects, dict):
        parts = [(join(name, str(key)), part) for key, part in objects.items()]
    elif isinstance(objects, list | tuple):
        parts = [(join(name, str(index)), part) for index, part in enumerate(objects)]
    elif dataclasses.is_dataclass(objects) and not isinstance(objects, type):
        fields = dataclasses.fields(objects)
        parts = [(join(name, f.name), getattr(objects, f.name, None)) for f in fields]
    else:
        names = getattr(find(objects), "parameter_names", None)
        return dict(names(objects, name)) if names else {}
    found: dict[int, str] = {}
    for child, part in parts:
        found = parameter_names(part, find, child) | found
    return found


def unsupported(name: str, value: Any) -> str:
    """What to tell about a value of no known kind."""
    kind = type(value)
    text = f"{name} is a {kind.__module__}.{kind.__qualname__}, which milepost does not know"
    if callable(value) and hasattr(value, "__name__"):
        text = f"{name} is the function {value.__name__!r}, and code is never saved"
    return (
        f"{text}: leave it out, give its class state_dict() and load_state_dict(), "
        "or pass its arrays and plain values"
    )


def capture_objects(objects: Mapping[str, Any], find: Finder) -> State:
    """The state of several objects, each under its own name.

    Raises:
        UnsupportedObjectError: a part of one cannot be captured; the message names it.
    """
    capture = Capture(objects, find)
    infos = {}
    for name, value in objects.items():
        try:
            structure = capture.child(name, value)
        except RecursionError:
            raise UnsupportedObjectError(f"{name} is nested too deeply to be saved") from None
        kind = getattr(capture.framework(name, value), "__name__", "").rpartition(".")[2]
        infos[name] = ObjectInfo(kind, structure, capture.config(name))
    return capture.state(infos)
