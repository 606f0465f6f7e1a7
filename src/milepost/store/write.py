"""Saving: write what is new into a pack, commit a manifest.

The order that makes a commit all or nothing: the pack is written and synced, then named and
its folder synced, then the manifest is written and synced, then linked to its name, which
fails if another has it, and its folder synced. Until that link nobody sees anything.
"""

from __future__ import annotations

import dataclasses
import datetime
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from milepost.errors import DamagedError, StepExistsError, VersionError
from milepost.provenance import json_values, numbers, versions
from milepost.record import PlainRecord, Record
from milepost.state import State, is_plain
from milepost.store import layout, manifest
from milepost.store.data import LeafData
from milepost.store.known import Known
from milepost.store.manifest import Manifest
from milepost.store.pack import placed
from milepost.store.prune import remove_leftovers, remove_replaced
from milepost.store.store import Store


@dataclass(frozen=True, slots=True)
class SaveReport:
    """What a save did.

    Attributes:
        step: the step that was committed.
        path: the store.
        leaves: how many there are.
        nbytes: the size of all arrays together.
        written: how many of these bytes were new, and so written.
        seconds: how long it took, durable at the end.
    """

    step: int
    path: str
    leaves: int
    nbytes: int
    written: int
    seconds: float


class Writer:
    """Commits checkpoints to a store, and remembers where the data of the last ones lies.

    Threads that share one take turns.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._known = Known(store.storage)
        self._indexed: set[int] = set()
        self._cleaned = False
        # Reentrant, because a signal's handler may save in the midst of a save.
        self._turn = threading.RLock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Writer, (self.store,)  # a copy takes turns of its own, and looks for itself

    def next_step(self) -> int:
        """One more than the highest step; 1 for the first."""
        steps = self.store.steps
        return steps[-1] + 1 if steps else 1

    def save(
        self,
        state: State,
        step: int,
        metrics: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
    ) -> SaveReport:
        """Commit a state as the checkpoint of `step`.

        Raises:
            StepExistsError: the step is committed already, or another process was faster.
            UsageError: the step, a metric or the metadata cannot be saved.
            StorageError: the storage refused; nothing of this step is visible.
        """
        with self._turn:
            return self._save(state, step, metrics, metadata, overwrite)

    def _save(
        self,
        state: State,
        step: int,
        metrics: Mapping[str, Any] | None,
        metadata: Mapping[str, Any] | None,
        overwrite: bool,
    ) -> SaveReport:
        began = time.monotonic()
        step = layout.check_step(step)
        draft = Manifest(
            step=step,
            created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            metrics=numbers({} if metrics is None else metrics),
            metadata=json_values({} if metadata is None else metadata),
            versions=versions(),
            objects=state.objects,
            ties=state.ties,
        )
        self._clean_once()
        with self.store.storage.lock(exclusive=False):
            if not overwrite and step in self.store:
                raise self._step_exists(step)
            self._index_known()
            data = LeafData(self.store.storage, self._known, state)
            data.write(layout.new_pack_name(step))
            try:
                final = self._complete(draft, state, data)
                self._commit(final, overwrite=overwrite)
            except BaseException:
                if data.pack is not None:
                    self.store.storage.delete([data.pack.name])
                raise
            data.remember()  # only now: a pack that is discarded must not be found
        if overwrite:
            self._when_alone(lambda: remove_replaced(self.store, step))
        return SaveReport(
            step,
            self.store.name,
            len(state.leaves),
            sum(array.nbytes for array in data.arrays.values()),
            data.written,
            time.monotonic() - began,
        )

    def index(self, found: Manifest) -> None:
        """Remember what a checkpoint holds, now that the live objects have its values."""
        with self._turn:
            self._known.read(found, leaves=True)
            self._indexed.add(found.step)

    def _index_known(self) -> None:
        """Remember what the newest checkpoint holds, whoever wrote it."""
        self._known.begin()
        steps = self.store.steps
        if steps and steps[-1] not in self._indexed:
            try:
                self._known.read(self.store.manifest(steps[-1]), leaves=False)
            except (DamagedError, VersionError):
                pass  # nothing is shared with a checkpoint that cannot be read

    def _complete(self, draft: Manifest, state: State, data: LeafData) -> Manifest:
        used = data.packs
        indices = {name: i for i, name in enumerate(used)}
        records: dict[str, Record] = {}
        for name, leaf in state.leaves.items():
            if is_plain(leaf):
                records[name] = PlainRecord(leaf)
            else:
                records[name] = placed(data.arrays[name], data.places, indices)
        return dataclasses.replace(draft, packs=tuple(used.values()), records=records)

    def _commit(self, final: Manifest, *, overwrite: bool) -> None:
        data = manifest.encode(final)
        name = layout.manifest_name(final.step)
        if overwrite:
            self.store.storage.replace(name, [data], len(data))
            self.store.forget(final.step)
            return
        try:
            self.store.storage.write(name, [data], len(data))
        except FileExistsError:
            raise self._step_exists(final.step) from None

    def _step_exists(self, step: int) -> StepExistsError:
        return StepExistsError(
            f"{self.store.name} has step {step} already, by this run or by another process "
            "that saves to the same place: save another step, or pass overwrite=True"
        )

    def _clean_once(self) -> None:
        """Before the first save: remove what dead writers left."""
        if not self._cleaned:
            self._cleaned = True
            self._when_alone(lambda: remove_leftovers(self.store))

    def _when_alone(self, action: Callable[[], None]) -> None:
        """Do something that may remove data, unless another writer is at work."""
        with self.store.storage.lock(exclusive=True, wait=False) as alone:
            if alone:
                action()
