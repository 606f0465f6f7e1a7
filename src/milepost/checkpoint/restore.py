"""Restoring: plan, read, verify, then put every value into the live objects, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from milepost import dtypes, frameworks
from milepost.checkpoint import scalars
from milepost.checkpoint.late import LateLeaves, late_leaves
from milepost.checkpoint.matching import matched
from milepost.checkpoint.plan import READ, PlanEntry, Status, make_plan
from milepost.checkpoint.selection import Renaming, Selection
from milepost.dtypes import Array
from milepost.errors import RestoreRefusedError
from milepost.frameworks.base import Saved, capture_objects
from milepost.snapshot import Snapshot
from milepost.state import ObjectInfo, Plain, Rule, rule_at


class Restore:
    """One restore of a snapshot into some objects: first its plan, then, if wanted, its doing.

    Making one may build a model that is not built yet; it changes no value.

    Raises:
        UsageError: `rename` or `only` name nothing.
        UnsupportedObjectError: an object is of no known kind.
    """

    def __init__(
        self,
        objects: Mapping[str, Any],
        snapshot: Snapshot,
        *,
        step: int | None = None,
        strict: bool = True,
        rename: Mapping[str, str] | None = None,
        only: Sequence[str] | None = None,
    ) -> None:
        self._objects = objects
        self._snapshot = snapshot
        self._find = frameworks.finder()
        saved = snapshot.description.objects
        renaming = Renaming(rename)
        self._prepare(renaming.objects(saved, {}), list(renaming.leaves(snapshot)))
        self._target = capture_objects(objects, self._find)
        if saved.keys() <= {""} != objects.keys():  # a file that knows nothing of these objects
            leaves = list(self._target.leaves)
            renaming = Renaming(matched(objects, leaves, snapshot, self._find, rename))
        sources = renaming.leaves(snapshot)
        self._infos = renaming.objects(saved, self._target.objects)
        self._selection = Selection(only, [*self._target.leaves, *sources])
        self.plan = make_plan(
            self._target,
            snapshot,
            objects=self._infos,
            sources=sources,
            renaming=renaming,
            selection=self._selection,
            step=step,
            strict=strict,
        )

    def _prepare(self, infos: Mapping[str, ObjectInfo], names: list[str]) -> None:
        for name, value in self._objects.items():
            prepare = getattr(self._find(value), "prepare", None)
            if prepare is not None and name in infos:
                prepare(value, name, infos[name].config, names, self._objects)

    def run(
        self, *, fresh: bool = False, take: Callable[[dict[str, Any]], object] = lambda _: None
    ) -> dict[str, Any]:
        """Do what the plan says; returns the objects, anew where they cannot be changed.

        `fresh` says that the objects were made for this, and are thrown away if it fails. If not,
        an interrupt comes before anything has changed, or after everything has: they are passed to
        `take` before it is raised.

        Raises:
            RestoreRefusedError: the plan is strict and not exact. Nothing was changed.
            DamagedError: a leaf's bytes are not what was saved. Nothing was changed, unless the
                objects are `fresh`.
        """
        if self.plan.strict and not self.plan.is_exact:
            raise self._refused("exactly ")
        late = late_leaves(self.plan.entries, self._target, self._snapshot)
        if not fresh:
            late.check()
        return self._apply(self._read(late), late, fresh, take)

    def _refused(self, how: str = "") -> RestoreRefusedError:
        return RestoreRefusedError(
            f"cannot restore {how}from {self.plan}\nNothing was changed. Pass "
            "rename={...} for what has another name, only=[...] for a part, or strict=False "
            "to take what fits.",
            self.plan,
        )

    def _read(self, late: LateLeaves) -> dict[str, Plain | Array]:
        """The value of every other leaf to be restored, checked, and of the live one's kind."""
        leaves: dict[str, Plain | Array] = {}
        entries = [
            entry
            for entry in self.plan.entries
            if entry.status in READ and entry.source is not None and entry.name not in late
        ]
        values = self._snapshot.read_all([str(entry.source) for entry in entries])
        for entry, found in zip(entries, values, strict=True):
            value = found
            if self._is_converted(entry):
                value = scalars.converted(self._target.leaves[entry.name], value)
            elif entry.status is Status.CAST and entry.expected is not None:
                value = np.asarray(value).astype(dtypes.numpy_dtype(entry.expected.dtype))
            leaves[entry.name] = value
        return leaves

    def _is_converted(self, entry: PlanEntry) -> bool:
        expected, found = entry.expected, entry.found
        if expected is None or found is None or expected.is_array == found.is_array:
            return False
        rule = rule_at(self._target.rules, entry.name)
        anything = rule & (Rule.GROWS | Rule.REPLACED)
        if anything and scalars.is_replaced(self._target.leaves[entry.name]):
            return False
        return Rule.OPAQUE not in rule

    def _apply(
        self,
        leaves: dict[str, Plain | Array],
        late: LateLeaves,
        fresh: bool,
        take: Callable[[dict[str, Any]], object],
    ) -> dict[str, Any]:
        """Hand out the values, and then, when nothing can fail any more, put them in place.

        Only code that is not ours changes its objects at once; if some of it fails, what it
        changed is put back.
        """
        removed = self._named(Status.REMOVED)
        saved = Saved(
            leaves,
            self._objects,
            self._find,
            removed=removed,
            kept={entry.name for entry in self.plan.entries} - removed,
            makers=frameworks.makers(),
            selects=self._selection.__contains__,
            late=late,
        )
        restored: dict[str, Any] = {}

        def put() -> None:
            saved.finish()
            take(restored)

        is_handed_out = False
        try:
            for name, value in self._objects.items():
                node = self._infos[name].structure if name in self._infos else None
                restored[name] = saved.child(name, value, node)
            self._check_all_taken(saved)
            is_handed_out = True
            put()
        except BaseException as error:
            if not is_handed_out:
                saved.put_back()
                error.add_note(
                    f"(while restoring {self._snapshot.name}; what had changed was put back)"
                )
            elif not isinstance(error, Exception) and not fresh:
                put()  # interrupted: once more, and to the end, for nobody wants a half
            raise
        return restored

    def _check_all_taken(self, saved: Saved) -> None:
        """Whether every leaf found its place: what the plan says is never only said."""
        fixed = {name for name, rule in self._target.rules.items() if Rule.FIXED in rule}
        left = saved.leaves.keys() - saved.taken - fixed
        if left:
            entries = [
                replace(entry, status=Status.MISMATCHED, note="the object has no place for it")
                if entry.name in left
                else entry
                for entry in self.plan.entries
            ]
            self.plan = replace(self.plan, entries=tuple(entries))
            if self.plan.strict:
                raise self._refused()

    def _named(self, status: Status) -> set[str]:
        return {entry.name for entry in self.plan.entries if entry.status is status}
