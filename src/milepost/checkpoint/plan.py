"""Plans: what a restore would do, leaf by leaf, before anything is touched."""

from __future__ import annotations

import difflib
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from milepost import dtypes, tree
from milepost.checkpoint import scalars
from milepost.checkpoint.selection import Renaming, Selection
from milepost.light import light
from milepost.record import ArrayRecord
from milepost.snapshot import Snapshot
from milepost.state import (
    NO_RULE,
    LeafSpec,
    ObjectInfo,
    Rule,
    State,
    ancestors,
    replaced_at,
    rule_at,
    spec_of,
    with_ancestors,
)


class Status(enum.StrEnum):
    """What a restore makes of one leaf."""

    EXACT = "exact"
    CAST = "cast"  # same shape, another dtype
    MISSING = "missing"  # only the object has it
    UNEXPECTED = "unexpected"  # only the snapshot has it
    MISMATCHED = "mismatched"  # another shape, or another kind of thing
    # Where the object's rules provide for a difference:
    ADDED = "added"  # the object gains it (a longer list, an optimizer's first state)
    REMOVED = "removed"  # the object loses it
    KEPT = "kept"  # the object keeps its own
    IGNORED = "ignored"  # the object has no use for it (a metric not built yet)


REFUSED = (Status.CAST, Status.MISSING, Status.UNEXPECTED, Status.MISMATCHED)
READ = (Status.EXACT, Status.CAST, Status.ADDED)


@light
class PlanEntry:
    """One leaf of a plan.

    Attributes:
        name: its name in the live objects, or in the snapshot if only that has it.
        status: what the restore makes of it.
        source: the snapshot's leaf that it takes its value from.
        expected: what the live object has; None if nothing.
        found: what the snapshot has; None if nothing.
        note: why, where the specs do not say it.
    """

    name: str
    status: Status
    source: str | None
    expected: LeafSpec | None
    found: LeafSpec | None
    note: str = ""

    def __str__(self) -> str:
        renamed = f" (from {self.source})" if self.source not in (None, self.name) else ""
        specs = f"expected {self.expected or 'nothing'}, found {self.found or 'nothing'}"
        return f"{self.name}{renamed}: {self.note or specs}"


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What a restore would do, or, returned by `restore`, what it did.

    Attributes:
        source: the snapshot, as messages call it.
        step: its step; None for a file that has none.
        entries: every leaf of the objects and of the snapshot that was selected.
        renames: likely ones, snapshot name -> live name, ready to pass as `rename=`.
        strict: whether anything but exact is refused.
    """

    source: str
    step: int | None
    entries: tuple[PlanEntry, ...]
    renames: Mapping[str, str] = field(default_factory=dict)
    strict: bool = True

    @property
    def refused(self) -> list[PlanEntry]:
        """The entries that a strict restore refuses."""
        return [entry for entry in self.entries if entry.status in REFUSED]

    @property
    def is_exact(self) -> bool:
        """Whether a strict restore does it."""
        return not self.refused

    def count(self, status: Status | str) -> int:
        """How many leaves have this status."""
        return sum(entry.status == status for entry in self.entries)

    def __str__(self) -> str:
        counts = [f"{self.count(s)} {s.value}" for s in Status if self.count(s)]
        lines = [f"{self.source}: {', '.join(counts) or 'no leaves'}"]
        for status in Status:
            entries = [entry for entry in self.entries if entry.status is status]
            if status is Status.EXACT or not entries:
                continue
            lines.append(f"{_title(status, self.strict)}:")
            lines += [f"    {entry}" for entry in entries[:20]]
            if len(entries) > 20:
                lines.append(f"    ... and {len(entries) - 20} more")
        if self.renames:
            lines.append("likely renames:")
            lines.append(f"    rename={dict(self.renames)!r}")
        return "\n".join(lines)


def _title(status: Status, strict: bool) -> str:
    done = {
        Status.CAST: "cast to the dtype of the object",
        Status.MISSING: "missing in the snapshot, left as they are",
        Status.UNEXPECTED: "unexpected, left out",
        Status.MISMATCHED: "mismatched, left as they are",
    }
    return status.value if strict or status not in done else done[status]


def make_plan(
    target: State,
    snapshot: Snapshot,
    *,
    objects: Mapping[str, ObjectInfo],
    sources: Mapping[str, str],
    renaming: Renaming,
    selection: Selection,
    step: int | None = None,
    strict: bool = True,
) -> RestorePlan:
    """Compare live objects with a snapshot.

    Arguments:
        objects: what the snapshot says of its objects, under the live names.
        sources: live name -> snapshot name, for every leaf of the snapshot.
        renaming: what made these of the snapshot's own.
    """
    maker = _Maker(target, snapshot, objects, sources, renaming)
    names = [*target.leaves, *(name for name in sources if name not in target.leaves)]
    entries = [maker.entry(name) for name in names if name in selection]
    if not selection.is_everything:
        entries = _only_whole(entries, target.rules, {n for n in names if n not in selection})
    return RestorePlan(snapshot.name, step, tuple(entries), _likely_renames(entries), strict)


def _only_whole(
    entries: list[PlanEntry], rules: Mapping[str, Rule], left_out: set[str]
) -> list[PlanEntry]:
    """Refuse the leaves of what is replaced as a whole where a part of it is left out."""
    partial = {replaced_at(rules, name) for name in left_out} - {None}
    return [
        replace(entry, status=Status.MISMATCHED, note=f"restored only with the rest of {root!r}")
        if (root := replaced_at(rules, entry.name)) in partial
        else entry
        for entry in entries
    ]


class _Maker:
    """What a restore makes of each leaf, by name."""

    def __init__(
        self,
        target: State,
        snapshot: Snapshot,
        objects: Mapping[str, ObjectInfo],
        sources: Mapping[str, str],
        renaming: Renaming,
    ) -> None:
        self._target = target
        self._renaming = renaming
        self._snapshot = snapshot
        self._sources = sources
        self._here = _containers(target.objects)
        self._there = _containers(objects)
        # Where the structure is a plain mapping of names, the names tell what holds leaves.
        self._holders = with_ancestors(sources) | set(self._there)
        self._fixed = {name for name, rule in target.rules.items() if Rule.FIXED in rule}
        self._rules: dict[str, Rule] = {}  # by the name of what a leaf is in

    def entry(self, name: str) -> PlanEntry:
        if name not in self._target.leaves:
            return self._only_in_snapshot(name)
        if name not in self._sources:
            return self._only_in_object(name)
        return self._matched(name)

    def _matched(self, name: str) -> PlanEntry:
        leaf, source = self._target.leaves[name], self._sources[name]
        expected, found = spec_of(leaf), self._snapshot.spec(source)
        rule = self._rule(name)
        status, note = _compare(expected, found)
        differ = expected.is_array != found.is_array or isinstance(leaf, np.generic)
        if differ and _rank(expected) == _rank(found) == 0:
            grows = Rule.GROWS in rule or Rule.REPLACED in rule
            fit = scalars.fit(leaf, self._snapshot.read(source), grows=grows)
            status = Status(fit or Status.MISMATCHED)
        if status is not Status.EXACT and Rule.OPAQUE in rule:
            status = Status.EXACT  # only the object itself knows what it takes
        if name in self._fixed:
            there = self._renaming.text(self._snapshot.read(source))
            if leaf != there:
                status, note = Status.MISMATCHED, f"expected {leaf!r:.200}, found {there!r:.200}"
        tied = self._target.ties.get(name)
        if tied is not None and Rule.REPLACED not in rule and self._differs(tied, source):
            status = Status.MISMATCHED
            note = f"shares its memory with {tied} here, but has other values in the snapshot"
        return PlanEntry(name, status, source, expected, found, note)

    def _differs(self, name: str, source: str) -> bool:
        """Whether the snapshot has other values for the live leaf `name` than its `source`."""
        other = self._sources.get(name)
        return other is not None and not _same_bytes(self._snapshot, source, other)

    def _only_in_object(self, name: str) -> PlanEntry:
        rules = self._target.rules
        expected = spec_of(self._target.leaves[name])
        status = Status.MISSING
        replaced = replaced_at(rules, name)
        if replaced in self._holders:
            return PlanEntry(name, Status.REMOVED, None, expected, None)
        # If the snapshot has nothing of what would be replaced, what is above that decides.
        below = name if replaced is None else replaced
        for above in ancestors(below):
            if above == below or above not in rules:
                continue
            if Rule.KEEPS in rules[above]:
                status = Status.KEPT
                break
            if above in self._holders:
                if Rule.SHRINKS in rules[above] and _rank(expected) == 0:
                    status = Status.REMOVED
                break
            # The snapshot has nothing of this one either; what holds it decides.
        return PlanEntry(name, status, None, expected, None)

    def _only_in_snapshot(self, name: str) -> PlanEntry:
        source, rules = self._sources[name], self._target.rules
        found = self._snapshot.spec(source)
        status = Status.UNEXPECTED
        rule = self._rule(name)
        if name in rules and Rule.REPLACED not in rule:
            rule = NO_RULE  # a container here, a leaf there
        grows = Rule.GROWS in rule and _rank(found) == 0 and self._has_place(name)
        if Rule.REPLACED in rule or grows:
            status = Status.ADDED
        elif Rule.IGNORES in rule:
            status = Status.IGNORED
        return PlanEntry(name, status, source, None, found)

    def _rule(self, name: str) -> Rule:
        above = name.rpartition("/")[0]
        rule = self._rules.get(above)
        if rule is None:
            rule = self._rules[above] = rule_at(self._target.rules, name)
        return rule

    def _has_place(self, name: str) -> bool:
        """Whether the live container nearest above `name` is of the kind that was saved there."""
        for above in ancestors(name):
            if above in self._target.leaves:
                return False  # a leaf here, a container there
            if above in self._here:
                return self._here[above] == self._there.get(above, self._here[above])
        return True


def _containers(objects: Mapping[str, ObjectInfo]) -> dict[str, str]:
    """Every container of a structure, empty ones too: name -> `"sequence"` or `"mapping"`."""
    return {
        name: "sequence" if kind in tree.SEQUENCES else "mapping"
        for object_name, info in objects.items()
        for name, kind in tree.containers(info.structure, object_name)
    }


def _rank(spec: LeafSpec) -> int:
    """How many axes: none for a plain value."""
    return len(spec.shape or ())


def _compare(expected: LeafSpec, found: LeafSpec) -> tuple[Status, str]:
    if expected.shape != found.shape:  # None is that of a plain value
        return Status.MISMATCHED, ""
    if expected.shape is None or expected.dtype == found.dtype:
        return Status.EXACT, ""
    return (Status.CAST if _can_cast(found.dtype, expected.dtype) else Status.MISMATCHED), ""


def _can_cast(source: str, target: str) -> bool:
    """Whether values of one dtype mean anything as another: numbers, none of which loses a part."""
    a, b = dtypes.numpy_dtype(source), dtypes.numpy_dtype(target)
    if "m" in (a.kind.lower(), b.kind.lower()):
        return False
    return not (np.issubdtype(a, np.complexfloating) and not np.issubdtype(b, np.complexfloating))


def _same_bytes(snapshot: Snapshot, a: str, b: str) -> bool:
    one, other = snapshot.record(a), snapshot.record(b)
    if not isinstance(one, ArrayRecord) or not isinstance(other, ArrayRecord):
        return False
    digests = [[chunk.digest for chunk in record.chunks] for record in (one, other)]
    if None in digests[0] + digests[1]:
        return bool(np.array_equal(np.asarray(snapshot[a]), np.asarray(snapshot[b])))
    return digests[0] == digests[1]


def _likely_renames(entries: list[PlanEntry]) -> dict[str, str]:
    """Pairs of a missing and an unexpected leaf that are the same but for the name."""
    missing = [e for e in entries if e.status is Status.MISSING][:200]
    unexpected = [e for e in entries if e.status is Status.UNEXPECTED][:200]
    scored = [
        (difflib.SequenceMatcher(None, a.name, b.name).ratio(), b.source, a.name)
        for a in missing
        for b in unexpected
        if a.expected == b.found
    ]
    renames: dict[str, str] = {}
    for score, old, new in sorted(scored, reverse=True):
        if score > 0.5 and old is not None and old not in renames and new not in renames.values():
            renames[old] = new
    return renames
