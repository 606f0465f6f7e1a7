"""Plans: what a restore would do, leaf by leaf, before anything is touched."""

from __future__ import annotations

import difflib
import enum
import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from milepost import dtypes, tree
from milepost.errors import UsageError
from milepost.record import ArrayRecord
from milepost.snapshot import Snapshot
from milepost.state import LeafSpec, Rule, State, ancestors, rule_at, spec_of


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


@dataclass(frozen=True, slots=True)
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
    step: int | None = None,
    rename: Mapping[str, str] | None = None,
    only: Sequence[str] | None = None,
    strict: bool = True,
) -> RestorePlan:
    """Compare live objects with a snapshot.

    Raises:
        UsageError: `rename` or `only` name nothing, or two leaves would get one name.
    """
    sources = _renamed(list(snapshot), rename or {})
    _check_selection(only, [*target.leaves, *sources])
    entries = list(_entries(target, snapshot, sources, only))
    return RestorePlan(snapshot.name, step, tuple(entries), _likely_renames(entries), strict)


def selects(only: Sequence[str] | None, name: str) -> bool:
    """Whether a restore limited to `only` includes this name: by glob, or by what is above it."""
    return only is None or any(
        fnmatch.fnmatchcase(name, pattern) or _is_below(name, pattern) for pattern in only
    )


def _is_below(name: str, above: str) -> bool:
    """Whether `above` is `name`, or a part of it up to a slash or, in PyTorch's names, a dot."""
    return name == above or name.startswith((f"{above}/", f"{above}."))


def _renamed(names: Iterable[str], rename: Mapping[str, str]) -> dict[str, str]:
    """Live name -> snapshot name, for every leaf of the snapshot."""
    used = set()
    sources: dict[str, str] = {}
    for name in names:
        new = name
        matching = [old for old in rename if _is_below(name, old)]
        if matching:
            old = max(matching, key=len)
            used.add(old)
            new = rename[old] + name[len(old) :]
        if new in sources:
            raise UsageError(
                f"rename would give the name {new!r} to both {sources[new]!r} and {name!r}"
            )
        sources[new] = name
    for old in rename.keys() - used:
        raise UsageError(f"rename={{{old!r}: ...}}: the snapshot has nothing of that name")
    return sources


def _check_selection(only: Sequence[str] | None, names: list[str]) -> None:
    if isinstance(only, str):
        raise UsageError(
            f"only= takes a list of names, found the string {only!r}: write only=[{only!r}]"
        )
    for pattern in only or ():
        if not any(selects([pattern], name) for name in names):
            raise UsageError(f"only=[{pattern!r}]: neither the objects nor the snapshot have it")


def _entries(
    target: State, snapshot: Snapshot, sources: Mapping[str, str], only: Sequence[str] | None
) -> Iterator[PlanEntry]:
    containers = _containers(snapshot, sources)
    for name, leaf in target.leaves.items():
        if not selects(only, name):
            continue
        expected = spec_of(leaf)
        if name in sources:
            yield _matched(target, snapshot, name, sources, expected)
        else:
            yield _only_in_object(target.rules, name, expected, containers)
    for name, source in sources.items():
        if selects(only, name) and name not in target.leaves:
            yield _only_in_snapshot(target.rules, name, source, snapshot.spec(source))


def _containers(snapshot: Snapshot, sources: Mapping[str, str]) -> set[str]:
    """The names of everything in the snapshot that holds leaves, or could: empty ones too."""
    found = {above for name in sources for above in ancestors(name)}
    for name, info in snapshot.description.objects.items():
        found.update(tree.containers(info.structure, name))
    return found


def _matched(
    target: State, snapshot: Snapshot, name: str, sources: Mapping[str, str], expected: LeafSpec
) -> PlanEntry:
    source = sources[name]
    found = snapshot.spec(source)
    status, note = _compare(expected, found)
    if status is Status.MISMATCHED and not (expected.is_array and found.is_array):
        # A number in a container may have been a NumPy scalar, and the other way round.
        scalar = expected.shape in ((), None) and found.shape in ((), None)
        if scalar and rule_at(target.rules, name) & (Rule.GROWS | Rule.REPLACED):
            status, note = Status.EXACT, ""
    if Rule.FIXED in target.rules.get(name, Rule(0)):
        here, there = target.leaves[name], snapshot.read(source)
        if here != there:
            status, note = Status.MISMATCHED, f"expected {here!r:.200}, found {there!r:.200}"
    tied = target.ties.get(name)
    if tied is not None and tied in sources and not _same_bytes(snapshot, source, sources[tied]):
        status = Status.MISMATCHED
        note = f"shares its memory with {tied} here, but has other values in the snapshot"
    return PlanEntry(name, status, source, expected, found, note)


def _compare(expected: LeafSpec, found: LeafSpec) -> tuple[Status, str]:
    if expected.is_array != found.is_array:
        return Status.MISMATCHED, ""
    if not expected.is_array:
        return Status.EXACT, ""
    if expected.shape != found.shape:
        return Status.MISMATCHED, ""
    if expected.dtype == found.dtype:
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


def _only_in_object(
    rules: Mapping[str, Rule], name: str, expected: LeafSpec, containers: set[str]
) -> PlanEntry:
    status = Status.MISSING
    chain = [above for above in ancestors(name) if above != name and above in rules]
    replaced = [i for i, above in enumerate(chain) if Rule.REPLACED in rules[above]]
    if replaced and chain[replaced[-1]] in containers:
        return PlanEntry(name, Status.REMOVED, None, expected, None)
    if replaced:  # the snapshot has nothing of what would be replaced; what is above decides
        chain = chain[replaced[-1] + 1 :]
    if chain:
        rule = rules[chain[0]]
        if Rule.SHRINKS in rule and chain[0] in containers and not expected.is_array:
            status = Status.REMOVED
        elif Rule.KEEPS in rule:
            status = Status.KEPT
    return PlanEntry(name, status, None, expected, None)


def _only_in_snapshot(
    rules: Mapping[str, Rule], name: str, source: str, found: LeafSpec
) -> PlanEntry:
    status = Status.UNEXPECTED
    rule = rule_at(rules, name)
    if name in rules and Rule.REPLACED not in rule:
        rule = Rule(0)  # a container here, a leaf there
    if Rule.REPLACED in rule or (Rule.GROWS in rule and found.shape in ((), None)):
        status = Status.ADDED
    elif Rule.IGNORES in rule:
        status = Status.IGNORED
    return PlanEntry(name, status, source, None, found)


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
