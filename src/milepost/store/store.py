"""A store: a folder, or an object-store prefix, of checkpoints that share their data."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping

from milepost import sealed
from milepost.errors import (
    DamagedError,
    MilepostError,
    NotAStoreError,
    PathNotFoundError,
    StepNotFoundError,
    UsageError,
)
from milepost.snapshot import closing_on_error
from milepost.source import read_exactly
from milepost.storage.base import Storage
from milepost.store import layout, manifest
from milepost.store.best import best_step
from milepost.store.manifest import Manifest
from milepost.store.names import Names
from milepost.store.references import References
from milepost.store.snapshot import CheckpointSnapshot

# How often a step is looked for, if other processes remove what was just found.
_TRIES = 10


class Store(Mapping[int, CheckpointSnapshot]):
    """The committed checkpoints of a store, by step, oldest first.

    Reading needs no lock: what is committed never changes.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        # Manifests never change, so each is read once. Only the few last used are kept.
        self._manifests: dict[int, Manifest] = {}
        # Kept, because to make it reads every manifest, and to update it only the new ones.
        self.references = References(storage, self._read_manifest)
        self.names = Names(storage)

    @classmethod
    def open(cls, storage: Storage) -> Store:
        """The store in `storage`.

        Raises:
            PathNotFoundError: there is nothing there.
            NotAStoreError: there is something else.
            DamagedError, VersionError: its marker cannot be trusted, or is newer.
        """
        if not storage.exists():
            raise PathNotFoundError(f"{storage.name} does not exist")
        try:
            source = storage.open(layout.MARKER)
        except PathNotFoundError:
            raise NotAStoreError(
                f"{storage.name} is no store of checkpoints: it has no {layout.MARKER}"
            ) from None
        try:
            data = bytes(read_exactly(source, 0, source.size))
        finally:
            source.close()
        sealed.unseal("store", data, f"{storage.name}/{layout.MARKER}")
        return cls(storage)

    @classmethod
    def open_or_create(cls, storage: Storage) -> Store:
        """As `open`, but an empty or missing place becomes a new store."""
        if not cls.is_there(storage):
            strangers = cls._strangers(storage)
            if strangers:
                raise NotAStoreError(
                    f"{storage.name} is no store of checkpoints, and not empty (it has "
                    f"{strangers[0]!r}): save to a path of its own"
                )
            storage.prepare()
            marker = sealed.seal("store", {"id": secrets.token_hex(16)})
            try:
                storage.write(layout.MARKER, [marker], len(marker))
            except FileExistsError:
                pass  # another writer was faster; the store is the same
        return cls.open(storage)

    @classmethod
    def is_there(cls, storage: Storage) -> bool:
        """Whether there is a store: its marker, which makes a folder one."""
        return layout.MARKER in storage.list("")

    @classmethod
    def is_absent(cls, storage: Storage) -> bool:
        """Whether there is no store yet, and nothing in the way of one."""
        return not cls.is_there(storage) and not cls._strangers(storage)

    @staticmethod
    def _strangers(storage: Storage) -> list[str]:
        """What is in a place besides what a writer leaves that died before the marker."""
        return [name for name in storage.list("") if name not in ("partial", "lock")]

    @property
    def name(self) -> str:
        """What messages call it: its path."""
        return self.storage.name

    @property
    def steps(self) -> list[int]:
        """The steps of all committed checkpoints, ascending."""
        return self.names.all()

    def newest_step(self) -> int | None:
        """The highest step; None if the store is empty."""
        return self.names.newest()

    @property
    def latest(self) -> CheckpointSnapshot:
        """The checkpoint with the highest step.

        Raises:
            StepNotFoundError: the store is empty.
        """
        return self.open_step("latest")

    def open_step(self, step: int | str) -> CheckpointSnapshot:
        """The checkpoint of a step, given as for `resolve`, with its data held open.

        So it can be read to the end although another process removes it meanwhile. If it goes
        before, there is the next that fits.

        Raises:
            StepNotFoundError: no checkpoint fits.
            UsageError: the words are none that `resolve` knows.
            DamagedError: its manifest is damaged; the message names the newest intact step.
        """
        seen: list[int] | None = None
        for _ in range(_TRIES):
            try:
                number = self.resolve(step)
                self.forget(number)
                checkpoint = self[number]
            except StepNotFoundError:
                self.names.forget()
                before, seen = seen, self.steps
                if seen == before:
                    raise  # and not because of what other processes did meanwhile
                continue
            with closing_on_error([checkpoint]):
                if checkpoint.hold():
                    return checkpoint
                checkpoint.close()
        raise StepNotFoundError(
            f"{self.name}: step {step} was removed or overwritten by another process each time "
            f"that it was opened, {_TRIES} times: try again, or open another step"
        )

    def __getitem__(self, step: int) -> CheckpointSnapshot:
        """The checkpoint of this step.

        Raises:
            StepNotFoundError: there is none; the message says which there are.
            DamagedError: its manifest is damaged; the message names the newest intact step.
        """
        try:
            return self._snapshot(step)
        except DamagedError as error:
            raise DamagedError(f"{error}; {self.advice(step)}") from None

    def _snapshot(self, step: int) -> CheckpointSnapshot:
        name = f"{self.name}, step {step}"
        found = self.manifest(step)
        return CheckpointSnapshot(self.storage, found, name, self.advice, lambda: self._now(found))

    def __iter__(self) -> Iterator[int]:
        return iter(self.steps)

    def __reversed__(self) -> Iterator[int]:
        """The steps, newest first: to take a few costs less than `steps`."""
        return self.names.descending()

    def __len__(self) -> int:
        return len(self.steps)

    def __contains__(self, step: object) -> bool:
        try:
            return self.names.has(layout.check_step(step))
        except UsageError:
            return False

    def __repr__(self) -> str:
        return f"<Store {self.name}: {len(self)} checkpoints>"

    def manifest(self, step: int) -> Manifest:
        """The manifest of a step, read and checked.

        Raises:
            StepNotFoundError, DamagedError, VersionError: as for reading the step.
        """
        step = layout.check_step(step)
        if step not in self._manifests:
            while len(self._manifests) >= 8:
                del self._manifests[next(iter(self._manifests))]
            self._manifests[step] = self._read_manifest(step)
        return self._manifests[step]

    def forget(self, step: int | None = None) -> None:
        """Read the manifest of this step, or every one, anew the next time.

        It was replaced or deleted, or may have been by another process.
        """
        if step is None:
            self._manifests.clear()
        else:
            self._manifests.pop(step, None)

    def committed(self, new: Manifest, since: str | None, mark: str | None) -> None:
        """Remember a checkpoint that a writer has just committed, as `Storage.write` answered."""
        self.references.committed(new, since, mark)
        self.names.committed(new.step, since, mark)

    def remember(self) -> None:
        """Note which steps there are, after writing, so that the newest is found at once."""
        self.names.watch()
        self.names.all()
        self.names.note()

    def still_has(self, known: Manifest) -> bool:
        """Whether a checkpoint is still there: neither removed nor replaced since it was read."""
        now = self._now(known)
        return now is not None and now.packs == known.packs

    def _now(self, known: Manifest) -> Manifest | None:
        """A step's manifest as it is now; None if the step is gone."""
        self.forget(known.step)
        try:
            return self.manifest(known.step)
        except StepNotFoundError:
            return None
        except MilepostError:
            return known  # there it is, though damaged

    def _read_manifest(self, step: int) -> Manifest:
        return self.decoded(self.document(step), step)

    def decoded(self, document: bytes, step: int) -> Manifest:
        """The manifest of a step, from its document."""
        return manifest.decode(document, f"{self.name}/{layout.manifest_name(step)}", step)

    def document(self, step: int) -> bytes:
        """The bytes of a step's manifest, as they are now.

        Raises:
            StepNotFoundError: there is no such step.
        """
        name = layout.manifest_name(step)
        try:
            source = self.storage.open(name)
        except PathNotFoundError:
            raise StepNotFoundError(self._no_such_step(step)) from None
        try:
            return bytes(read_exactly(source, 0, source.size))
        finally:
            source.close()

    def _no_such_step(self, step: int | None) -> str:
        steps = self.steps
        if not steps:
            return f"{self.name} has no checkpoint yet"
        some = ", ".join(map(str, steps if len(steps) <= 10 else [*steps[:3], "...", *steps[-5:]]))
        return f"{self.name} has no step {step}; it has {some}"

    def resolve(self, step: int | str) -> int:
        """The number of a step given as a number, `"latest"`, or the best by a metric.

        `"best:val_loss"` knows from the name whether low or high is good, where the name
        says so; `"min:NAME"` and `"max:NAME"` say it.

        Raises:
            StepNotFoundError: no checkpoint fits.
            UsageError: the words are none of these.
        """
        if not isinstance(step, str):
            return layout.check_step(step)
        if step == "latest":
            newest = self.newest_step()
            if newest is None:
                raise StepNotFoundError(self._no_such_step(None))
            return newest
        direction, colon, metric = step.partition(":")
        if not colon or direction not in ("best", "min", "max"):
            raise UsageError(
                f"expected a step's number, 'latest', 'best:METRIC', 'min:METRIC' or "
                f"'max:METRIC', found {step!r}"
            )
        return best_step(self.all_metrics(), metric, direction, self.name)

    def all_metrics(self) -> dict[int, Mapping[str, float]]:
        """The metrics of every step, as they are now.

        Reads every manifest; the next time, only those that are new or were replaced.

        Raises:
            DamagedError, VersionError: one cannot be read.
        """
        self.references.update()
        return self.references.all_metrics()

    def newest_intact(self, *, besides: int) -> int | None:
        """The highest step, other than this one, whose every chunk has its checksum."""
        for step in reversed(self.steps):
            if step == besides:
                continue
            try:
                with self._snapshot(step) as checkpoint:
                    if next(checkpoint.damage(), None) is None:
                        return step
            except MilepostError:
                continue
        return None

    def advice(self, damaged: int) -> str:
        """What to do about a damaged step."""
        intact = self.newest_intact(besides=damaged)
        if intact is None:
            return "no other step is intact: restore the store from a backup"
        return f"the newest intact step is {intact}: restore with step={intact}"
