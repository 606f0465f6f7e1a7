"""Saving: digest, keep what is new, write a pack, commit a manifest.

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

from milepost.errors import DamagedError, PathNotFoundError, StepExistsError, VersionError
from milepost.pieces import DigestedArray, digest_array
from milepost.provenance import json_values, numbers, versions
from milepost.record import ArrayRecord, PlainRecord, Record
from milepost.state import State, is_array, is_plain
from milepost.store import layout, manifest
from milepost.store.manifest import Manifest, PackRef
from milepost.store.pack import PackPlan, Place, placed
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
        self._places: dict[str, Place] = {}
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
            digested = {
                name: digest_array(name, leaf)
                for name, leaf in state.leaves.items()
                if is_array(leaf)
            }
            new_pack, places, written = self._write_pack(step, digested)
            try:
                final = self._complete(draft, state, digested, places)
                self._commit(final, overwrite=overwrite)
            except BaseException:
                if new_pack is not None:
                    self.store.storage.delete([new_pack.name])
                raise
            self._places = places  # only now: a pack that is discarded must not be found
        if overwrite:
            self._when_alone(lambda: remove_replaced(self.store, step))
        nbytes = sum(leaf.nbytes for leaf in digested.values())
        return SaveReport(
            step, self.store.name, len(state.leaves), nbytes, written, time.monotonic() - began
        )

    def index(self, found: Manifest) -> None:
        """Remember where the data of a checkpoint lies, so as not to write it again."""
        with self._turn:
            for record in found.records.values():
                if isinstance(record, ArrayRecord):
                    for chunk in record.chunks:
                        if chunk.digest is not None:
                            place = Place(found.packs[chunk.file], chunk.position)
                            self._places.setdefault(chunk.digest, place)
            self._indexed.add(found.step)

    def _index_known(self) -> None:
        """Index the newest checkpoint, and forget places whose pack is gone."""
        steps = self.store.steps
        if steps and steps[-1] not in self._indexed:
            try:
                self.index(self.store.manifest(steps[-1]))
            except (DamagedError, VersionError):
                pass  # nothing is shared with a checkpoint that cannot be read
        there: dict[str, bool] = {}
        for known in list(self._places.values()):
            if known.pack.name not in there:
                there[known.pack.name] = self._is_there(known.pack)
        self._places = {d: p for d, p in self._places.items() if there[p.pack.name]}

    def _is_there(self, ref: PackRef) -> bool:
        try:
            source = self.store.storage.open(ref.name)
        except PathNotFoundError:
            return False
        try:
            return source.size == ref.nbytes
        finally:
            source.close()

    def _write_pack(
        self, step: int, digested: Mapping[str, DigestedArray]
    ) -> tuple[PackRef | None, dict[str, Place], int]:
        """Write what no pack has yet.

        Returns the new pack, if there is one, the place of every digest, and how many bytes of
        arrays are new.
        """
        new = {piece.digest for leaf in digested.values() for piece in leaf.pieces}
        new -= self._places.keys()
        if not new:
            return None, self._places, 0
        plan = PackPlan()
        for leaf in digested.values():
            plan.add(leaf, new)
        ref, header, positions = plan.layout(layout.new_pack_name(step))
        self.store.storage.write(ref.name, plan.parts(header), ref.nbytes)
        places = {d: Place(ref, position) for d, position in positions.items()}
        return ref, self._places | places, plan.data_bytes

    def _complete(
        self,
        draft: Manifest,
        state: State,
        digested: Mapping[str, DigestedArray],
        places: dict[str, Place],
    ) -> Manifest:
        used = {
            places[piece.digest].pack.name: places[piece.digest].pack
            for leaf in digested.values()
            for piece in leaf.pieces
        }
        indices = {name: i for i, name in enumerate(used)}
        records: dict[str, Record] = {}
        for name, leaf in state.leaves.items():
            if is_plain(leaf):
                records[name] = PlainRecord(leaf)
            else:
                records[name] = placed(digested[name], places, indices)
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
