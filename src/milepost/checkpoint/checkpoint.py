"""`Checkpoint`: live objects of any framework, saved to a store and restored from it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from milepost import dtypes, frameworks
from milepost.checkpoint.plan import READ, RestorePlan, Status, make_plan, selects
from milepost.dtypes import Array
from milepost.errors import RestoreRefusedError, UsageError
from milepost.frameworks.base import Saved, capture_objects
from milepost.state import Plain, Rule, State, is_plain, rule_at
from milepost.storage.base import Storage
from milepost.storage.local import LocalStorage
from milepost.store import CheckpointSnapshot, SaveReport, Store, Writer

Path: TypeAlias = str | os.PathLike[str]


class Checkpoint:
    """Objects that are saved and restored together.

    Arguments:
        objects: models, optimizers, schedules, generators, arrays, dicts and lists of plain
            values, pytrees: each under a name of its own, which its leaves' names begin with.

    Example:

        checkpoint = Checkpoint(model=model, optimizer=optimizer, progress={"epoch": 0})
        checkpoint.save("runs/digits")
        checkpoint.restore("runs/digits")

    What can be changed is restored in place. What cannot (a JAX array, a tuple, a number) is
    replaced: read it back as an attribute, `checkpoint.params`, and assign to that attribute
    what is to be saved next.
    """

    def __init__(self, **objects: Any) -> None:
        if not objects:
            raise UsageError("a Checkpoint needs objects: Checkpoint(model=model, ...)")
        for name in objects:
            if hasattr(type(self), name) or name.startswith("_"):
                raise UsageError(f"{name!r} cannot be the name of an object: choose another")
        self._objects: dict[str, Any] = dict(objects)
        # One a store, so that what was written last need not be looked up again.
        self._writers: dict[str, Writer] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_objects"][name]
        except KeyError:
            raise AttributeError(f"this checkpoint has no object {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_objects", ()):
            self._objects[name] = value
        elif name.startswith("_"):
            super().__setattr__(name, value)
        else:
            raise AttributeError(
                f"this checkpoint has no object {name!r}; it has {', '.join(self._objects)}"
            )

    def __repr__(self) -> str:
        return f"Checkpoint({', '.join(self._objects)})"

    @property
    def objects(self) -> Mapping[str, Any]:
        """The objects by name, as they are now."""
        return dict(self._objects)

    def save(
        self,
        path: Path | Storage,
        step: int | None = None,
        *,
        metrics: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> SaveReport:
        """Commit the objects, as they are now, to the store at `path`; made if need be.

        Arguments:
            path: the store's folder.
            step: the number of this checkpoint; one more than the highest if not given.
            metrics: name -> number, for `log` and `step="best:NAME"`.
            metadata: JSON values of your own.
            overwrite: whether a checkpoint of this step gives way, once the new one is whole.

        Returns when everything is on the disk.

        Raises:
            UnsupportedObjectError: an object cannot be saved; the message names its leaf.
            StepExistsError: the step is there already.
            NotAStoreError: the path holds something else.
            StorageError: disk full, read-only, no permission. Nothing of it is visible.
        """
        state = capture_objects(self._objects, frameworks.finder())
        writer = self._writer(path)
        number = writer.next_step() if step is None else step
        return writer.save(state, number, metrics, metadata, overwrite=overwrite)

    def restore(
        self,
        path: Path | Storage,
        step: int | str = "latest",
        *,
        strict: bool = True,
        rename: Mapping[str, str] | None = None,
        only: Sequence[str] | None = None,
    ) -> RestorePlan:
        """Put a checkpoint's values into the objects, all of them or none.

        Arguments:
            path: the store's folder.
            step: a step's number, `"latest"`, `"best:METRIC"`, `"min:METRIC"`, `"max:METRIC"`.
            strict: refuse anything but an exact match. If False, dtypes are cast, and
                leaves that are missing, unexpected or of another shape are left out.
            rename: names in the checkpoint -> names here, of leaves or of whole subtrees.
            only: names or globs; everything else stays as it is.

        Returns the plan, which says what was done to each leaf.

        Raises:
            RestoreRefusedError: the plan is not exact. Nothing was changed.
            PathNotFoundError, NotAStoreError, StepNotFoundError: there is no such checkpoint.
            DamagedError: its bytes are not what was saved. Nothing was changed.
        """
        store, snapshot = self._open(path, step)
        with snapshot:
            target, plan = self._plan(snapshot, strict=strict, rename=rename, only=only)
            if strict and not plan.is_exact:
                raise RestoreRefusedError(
                    f"cannot restore exactly from {plan}\nNothing was changed. Pass rename={{...}} "
                    "for what has another name, only=[...] for a part, or strict=False to take "
                    "what fits.",
                    plan,
                )
            leaves = _read(snapshot, plan)
            self._apply(snapshot, target, plan, leaves, only)
            self._writer(path).index(snapshot.manifest)
        return plan

    def plan(
        self,
        path: Path | Storage,
        step: int | str = "latest",
        *,
        strict: bool = True,
        rename: Mapping[str, str] | None = None,
        only: Sequence[str] | None = None,
    ) -> RestorePlan:
        """What `restore` with the same arguments would do. Changes no value.

        A model that is not built yet is built, as its first call would do.
        """
        _, snapshot = self._open(path, step)
        with snapshot:
            return self._plan(snapshot, strict=strict, rename=rename, only=only)[1]

    def _writer(self, path: Path | Storage) -> Writer:
        storage = as_storage(path)
        writer = self._writers.get(storage.name)
        if writer is None or not storage.exists():
            writer = self._writers[storage.name] = Writer(Store.open_or_create(storage))
        return writer

    def _open(self, path: Path | Storage, step: int | str) -> tuple[Store, CheckpointSnapshot]:
        store = Store.open(as_storage(path))
        return store, store[store.resolve(step)]

    def _plan(
        self,
        snapshot: CheckpointSnapshot,
        *,
        strict: bool,
        rename: Mapping[str, str] | None,
        only: Sequence[str] | None,
    ) -> tuple[State, RestorePlan]:
        find = frameworks.finder()
        for name, value in self._objects.items():
            prepare = getattr(find(value), "prepare", None)
            if prepare is not None and name in snapshot.description.objects:
                config = snapshot.description.objects[name].config
                prepare(value, name, config, list(snapshot), self._objects)
        target = capture_objects(self._objects, find)
        plan = make_plan(
            target, snapshot, step=snapshot.step, rename=rename, only=only, strict=strict
        )
        return target, plan

    def _apply(
        self,
        snapshot: CheckpointSnapshot,
        target: State,
        plan: RestorePlan,
        leaves: dict[str, Plain | Array],
        only: Sequence[str] | None,
    ) -> None:
        infos = snapshot.description.objects
        saved = Saved(
            leaves,
            self._objects,
            frameworks.finder(),
            removed={e.name for e in plan.entries if e.status is Status.REMOVED},
            kept={e.name for e in plan.entries if e.status is not Status.REMOVED},
            makers=frameworks.makers(),
            selects=lambda name: selects(only, name),
        )
        # Objects whose `load_state_dict` is someone else's code come first: if one fails,
        # only they have to be put back.
        order = sorted(self._objects, key=lambda name: target.objects[name].kind != "python")
        backup = _backup(target)
        restored: dict[str, Any] = {}
        for name in order:
            structure = infos[name].structure if name in infos else None
            try:
                restored[name] = saved.child(name, self._objects[name], structure)
            except BaseException:
                undo = Saved(
                    backup,
                    self._objects,
                    saved.find,
                    removed={e.name for e in plan.entries if e.status is Status.ADDED},
                    kept=set(target.leaves),
                    makers=saved.makers,
                )
                for done in [*restored, name]:
                    undo.child(done, self._objects[done], target.objects[done].structure)
                raise
        self._objects.update(restored)


def _backup(target: State) -> dict[str, Plain | Array]:
    """Copies of what is small, or restored by code of others: values, and replaced subtrees."""
    return {
        name: leaf if is_plain(leaf) else np.array(leaf)
        for name, leaf in target.leaves.items()
        if is_plain(leaf) or rule_at(target.rules, name) & Rule.REPLACED
    }


def _read(snapshot: CheckpointSnapshot, plan: RestorePlan) -> dict[str, Plain | Array]:
    """The value of every leaf that is to be restored, checked, cast where the plan says so."""
    leaves: dict[str, Plain | Array] = {}
    for entry in plan.entries:
        if entry.status in READ and entry.source is not None:
            value = snapshot.read(entry.source)
            if entry.status is Status.CAST and entry.expected is not None:
                value = np.asarray(value).astype(dtypes.numpy_dtype(entry.expected.dtype))
            leaves[entry.name] = value
    return leaves


def as_storage(path: Path | Storage) -> Storage:
    """The storage at a path; a storage is itself."""
    return LocalStorage(path) if isinstance(path, str | os.PathLike) else path
