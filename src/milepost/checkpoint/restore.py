"""Restoring: plan, read, verify, then put every value into the live objects, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from milepost import dtypes, frameworks
from milepost.checkpoint.plan import READ, Status, make_plan, selects
from milepost.dtypes import Array
from milepost.errors import RestoreRefusedError
from milepost.frameworks.base import Saved, capture_objects
from milepost.snapshot import Snapshot
from milepost.state import Plain, Rule, State, is_plain, rule_at


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
        self._infos = snapshot.description.objects
        self._only = only
        self._find = frameworks.finder()
        self._prepare()
        self._target = capture_objects(objects, self._find)
        self.plan = make_plan(
            self._target, snapshot, step=step, rename=rename, only=only, strict=strict
        )

    def _prepare(self) -> None:
        names = list(self._snapshot)
        for name, value in self._objects.items():
            prepare = getattr(self._find(value), "prepare", None)
            if prepare is not None and name in self._infos:
                prepare(value, name, self._infos[name].config, names, self._objects)

    def run(self) -> dict[str, Any]:
        """Do what the plan says; returns the objects, anew where they cannot be changed.

        Raises:
            RestoreRefusedError: the plan is strict and not exact. Nothing was changed.
            DamagedError: a leaf's bytes are not what was saved. Nothing was changed.
        """
        if self.plan.strict and not self.plan.is_exact:
            raise RestoreRefusedError(
                f"cannot restore exactly from {self.plan}\nNothing was changed. Pass "
                "rename={...} for what has another name, only=[...] for a part, or strict=False "
                "to take what fits.",
                self.plan,
            )
        return self._apply(self._read())

    def _read(self) -> dict[str, Plain | Array]:
        """The value of every leaf to be restored, checked, cast where the plan says so."""
        leaves: dict[str, Plain | Array] = {}
        for entry in self.plan.entries:
            if entry.status in READ and entry.source is not None:
                value = self._snapshot.read(entry.source)
                if entry.status is Status.CAST and entry.expected is not None:
                    value = np.asarray(value).astype(dtypes.numpy_dtype(entry.expected.dtype))
                leaves[entry.name] = value
        return leaves

    def _apply(self, leaves: dict[str, Plain | Array]) -> dict[str, Any]:
        removed = self._named(Status.REMOVED)
        saved = Saved(
            leaves,
            self._objects,
            self._find,
            removed=removed,
            kept={entry.name for entry in self.plan.entries} - removed,
            makers=frameworks.makers(),
            selects=lambda name: selects(self._only, name),
        )
        # Objects whose `load_state_dict` is someone else's code come first: if one fails,
        # only they have to be put back.
        target = self._target.objects
        order = sorted(self._objects, key=lambda name: target[name].kind != "python")
        backup = _backup(self._target)
        restored: dict[str, Any] = {}
        for name in order:
            structure = self._infos[name].structure if name in self._infos else None
            try:
                restored[name] = saved.child(name, self._objects[name], structure)
            except BaseException:
                self._undo([*restored, name], backup, saved)
                raise
        return {name: restored[name] for name in self._objects}

    def _undo(self, names: list[str], backup: dict[str, Plain | Array], done: Saved) -> None:
        undo = Saved(
            backup,
            self._objects,
            self._find,
            removed=self._named(Status.ADDED),
            kept=set(self._target.leaves),
            makers=done.makers,
        )
        for name in names:
            undo.child(name, self._objects[name], self._target.objects[name].structure)

    def _named(self, status: Status) -> set[str]:
        return {entry.name for entry in self.plan.entries if entry.status is status}


def _backup(target: State) -> dict[str, Plain | Array]:
    """Copies of what is small, or restored by code of others: values, and replaced subtrees."""
    return {
        name: leaf if is_plain(leaf) else np.array(leaf)
        for name, leaf in target.leaves.items()
        if is_plain(leaf) or rule_at(target.rules, name) & Rule.REPLACED
    }
