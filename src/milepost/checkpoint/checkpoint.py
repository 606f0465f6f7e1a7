"""`Checkpoint`: live objects of any framework, saved to a store and restored from it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, overload

from milepost import collector, frameworks, opening
from milepost.checkpoint.background import BackgroundSave
from milepost.checkpoint.plan import RestorePlan
from milepost.checkpoint.restore import Restore
from milepost.errors import UsageError
from milepost.frameworks.base import capture_objects
from milepost.snapshot import Snapshot
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
        self._background: BackgroundSave | None = None

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

    @overload
    def save(
        self,
        path: Path | Storage,
        step: int | None = None,
        *,
        metrics: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        background: Literal[False] = False,
        max_memory: int | None = None,
    ) -> SaveReport: ...

    @overload
    def save(
        self,
        path: Path | Storage,
        step: int | None = None,
        *,
        metrics: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        background: Literal[True],
        max_memory: int | None = None,
    ) -> BackgroundSave: ...

    def save(
        self,
        path: Path | Storage,
        step: int | None = None,
        *,
        metrics: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        background: bool = False,
        max_memory: int | None = None,
    ) -> SaveReport | BackgroundSave:
        """Commit the objects, as they are now, to the store at `path`; made if need be.

        Arguments:
            path: the store's folder.
            step: the number of this checkpoint; one more than the highest if not given.
            metrics: name -> number, for `log` and `step="best:NAME"`.
            metadata: JSON values of your own.
            overwrite: whether a checkpoint of this step gives way, once the new one is whole.
            background: whether to return as soon as the objects may change again, with a
                `BackgroundSave`, and to write meanwhile. One is written at a time: the next
                save waits for it, and raises its error if it failed.
            max_memory: how many bytes the copy of a background save may take. Past it, the
                copying waits for the disk. If not given, it is one whole copy of what changes.

        Returns when everything is on the disk, if not in the background.

        Raises:
            UnsupportedObjectError: an object cannot be saved; the message names its leaf.
            StepExistsError: the step is there already.
            NotAStoreError: the path holds something else.
            StorageError: disk full, read-only, no permission. Nothing of it is visible.
        """
        return self._save(
            path,
            step,
            metrics=metrics,
            metadata=metadata,
            overwrite=overwrite,
            background=background,
            max_memory=max_memory,
        )

    def _save(
        self,
        path: Path | Storage,
        step: int | None,
        *,
        metrics: Mapping[str, Any] | None,
        metadata: Mapping[str, Any] | None,
        overwrite: bool,
        background: bool,
        max_memory: int | None,
        after: Callable[[SaveReport, Store], None] = lambda report, store: None,
    ) -> SaveReport | BackgroundSave:
        """As `save`. What comes `after` the commit belongs to it, and may fail it."""
        self.wait()
        with collector.paused():
            state = capture_objects(self._objects, frameworks.finder())
            writer = self._writer(path)
            number = writer.next_step() if step is None else step
            if not background:
                report = writer.save(state, number, metrics, metadata, overwrite=overwrite)
                after(report, writer.store)
                return report
            transfer = writer.start(
                state,
                number,
                metrics,
                metadata,
                overwrite=overwrite,
                max_memory=max_memory,
                after=lambda report: after(report, writer.store),
            )
            self._background = BackgroundSave(transfer, int(number))
            return self._background

    def wait(self) -> None:
        """Wait for the background save that is under way, if there is one.

        Raises what it failed with, as `save`, unless that was raised before.
        """
        # Before it is forgotten, for who is interrupted here waits again. And a save may go on
        # whose caller was interrupted before it was known here.
        for writer in list(self._writers.values()):
            writer.settle()
        before, self._background = self._background, None
        if before is not None:
            before.raise_if_failed()

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
            path: the store's folder; or a file or folder of any other format that
                `milepost.open` reads, whose leaves are found by their names here, by these
                without the object's, or by those that the framework gives in its own files.
            step: a step's number, `"latest"`, `"best:METRIC"`, `"min:METRIC"`, `"max:METRIC"`.
            strict: refuse anything but an exact match. If False, dtypes are cast, and
                leaves that are missing, unexpected or of another shape are left out.
            rename: names in the checkpoint -> names here, of leaves or of whole subtrees. A
                key that ends in a slash or a dot is replaced with it, and `""` stands before
                every name: `{"state_dict/net.": "model/"}`.
            only: names or globs; everything else stays as it is.

        Returns the plan, which says what was done to each leaf.

        Raises:
            RestoreRefusedError: the plan is not exact. Nothing was changed.
            PathNotFoundError, NotAStoreError, StepNotFoundError: there is no such checkpoint.
            DamagedError: its bytes are not what was saved. Nothing was changed.
        """
        self.wait()
        with collector.paused(), self._open(path, step) as snapshot:
            restore = self._restore(snapshot, strict, rename, only)
            restore.run(take=self._objects.update)
            if isinstance(snapshot, CheckpointSnapshot):
                self._writer(path).index(snapshot.manifest)
        return restore.plan

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
        with collector.paused(), self._open(path, step) as snapshot:
            return self._restore(snapshot, strict, rename, only).plan

    def _writer(self, path: Path | Storage) -> Writer:
        storage = as_storage(path)
        writer = self._writers.get(storage.name)
        # Also if somebody has deleted the store meanwhile, and made a folder there again.
        if writer is None or not Store.is_there(storage):
            writer = self._writers[storage.name] = Writer(Store.open_or_create(storage))
        return writer

    def _open(self, path: Path | Storage, step: int | str) -> Snapshot:
        opened = opening.open(path) if isinstance(path, str | os.PathLike) else Store.open(path)
        if isinstance(opened, Store):
            return opened.open_step(step)
        if step != "latest":
            opened.close()
            raise UsageError(f"step={step!r} is for stores, and {opened.name} is none")
        return opened

    def _restore(
        self,
        snapshot: Snapshot,
        strict: bool,
        rename: Mapping[str, str] | None,
        only: Sequence[str] | None,
    ) -> Restore:
        step = snapshot.step if isinstance(snapshot, CheckpointSnapshot) else None
        return Restore(self._objects, snapshot, step=step, strict=strict, rename=rename, only=only)


def as_storage(path: Path | Storage) -> Storage:
    """The storage at a path; a storage is itself."""
    return LocalStorage(path) if isinstance(path, str | os.PathLike) else path
