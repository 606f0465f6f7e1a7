"""Saving: write what is new into a pack, commit a manifest.

A save has two halves. The first looks at what there is and copies what may be new, and is
done when the live objects may change again. The second, in a thread, digests and writes.

The order that makes a commit all or nothing: the pack is written and synced, then named and
its folder synced, then the manifest is written and synced, then linked to its name, which
fails if another has it, and its folder synced. Until that link nobody sees anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from milepost.errors import DamagedError, StepExistsError, VersionError
from milepost.provenance import json_values, numbers, versions
from milepost.record import PlainRecord, Record
from milepost.staging import FEW, SLOT_BYTES, Slots, Staging, Transfer
from milepost.state import State, is_plain
from milepost.storage.base import Stamp
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
        self.known = Known(store.storage)
        self._indexed: set[int] = set()
        self._seen: Stamp | None = None  # `change` of the checkpoints when the newest was known
        self._cleaned = False
        # Reentrant, because a signal's handler may save in the midst of a save.
        self._turn = threading.RLock()
        self._running: Transfer[SaveReport] | None = None
        self._few = Slots(FEW)  # what a save takes whose caller waits
        self._many = Slots()

    def __reduce__(self) -> tuple[Any, ...]:
        return Writer, (self.store,)  # a copy takes turns of its own, and looks for itself

    def next_step(self) -> int:
        """One more than the highest step; 1 for the first."""
        self.store.names.watch()
        newest = self.store.newest_step()
        return 1 if newest is None else newest + 1

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
            UsageError: the step, a metric or the metadata cannot be saved; or an array was
                changed meanwhile.
            StorageError: the storage refused; nothing of this step is visible.
        """
        draft = _drafted(state, step, metrics, metadata)
        with (
            self._turn,
            self._begun(state, draft, overwrite=overwrite, live=True) as (data, transfer),
        ):
            data.fill(transfer, self._few)
            return transfer.result()

    def start(
        self,
        state: State,
        step: int,
        metrics: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
        max_memory: int | None = None,
        after: Callable[[SaveReport], None] | None = None,
    ) -> Transfer[SaveReport]:
        """As `save`, but return as soon as the live objects may change again.

        `max_memory` is how many bytes the copy may take at a time: beyond, it waits for the
        disk. If not given, it is one whole copy. `after` is called once it is committed.
        """
        draft = _drafted(state, step, metrics, metadata)
        most = None if max_memory is None else max(1, max_memory // SLOT_BYTES)
        with self._turn:
            if self._many.most != most:
                self._many = Slots(most)
            begun = self._begun(state, draft, overwrite=overwrite, live=False, after=after)
            with begun as (data, transfer):
                data.fill(transfer, self._many, self._few)
                return transfer

    def settle(self) -> None:
        """Wait for the save that is under way, unless it is this thread that it waits for."""
        running = self._running
        if running is not None and not running.is_filled_here:
            running.settle()

    @contextlib.contextmanager
    def _begun(
        self,
        state: State,
        draft: Manifest,
        *,
        overwrite: bool,
        live: bool,
        after: Callable[[SaveReport], None] | None = None,
    ) -> Iterator[tuple[LeafData, Transfer[SaveReport]]]:
        """Look at what there is; the block fills. If it fails, nothing is written."""
        began = time.monotonic()
        self.settle()
        if self._running is not None and self._running.failed:  # and kept some of its slots
            self._few, self._many = Slots(FEW), Slots(self._many.most)
        self._clean_once()
        with contextlib.ExitStack() as stack:
            # Until the commit: what is not written again may not be removed meanwhile.
            locked = stack.enter_context(contextlib.ExitStack())
            locked.enter_context(self.store.storage.lock(exclusive=False))
            if not overwrite and draft.step in self.store:
                raise self.step_exists(draft.step)
            self._index_known()
            data = LeafData(self.store.storage, self.known, state, background=not live)
            save = _Save(
                self,
                state,
                draft,
                data,
                locked,
                began=began,
                overwrite=overwrite,
                live=live,
                after=after,
            )
            transfer = Transfer(save.run, copies_first=not live)
            try:
                with transfer:
                    self._running = transfer
                    yield data, transfer
            finally:
                if not transfer.cancelled:
                    stack.pop_all()  # the thread that writes lets go of the lock

    def note(self, step: int) -> None:
        """What this step holds is remembered: its manifest need not be read."""
        self._indexed.add(step)

    def note_committed(self, step: int) -> None:
        """As `note`, of a step that this writer has just committed."""
        self.note(step)
        self._seen = self.store.storage.change(layout.CHECKPOINTS)

    def index(self, found: Manifest) -> None:
        """Remember what a checkpoint holds, now that the live objects have its values."""
        with self._turn:
            self.known.read(found, leaves=True)
            self.note(found.step)

    def _index_known(self) -> None:
        """Remember what the newest checkpoint holds, whoever wrote it."""
        self.known.begin()
        self.store.names.watch()
        seen = self.store.storage.change(layout.CHECKPOINTS)
        if seen is not None and seen == self._seen:
            return  # nobody else has saved since. If one has, only less is shared with it.
        newest = self.store.newest_step()
        self._seen = seen
        if newest is not None and newest not in self._indexed:
            try:
                self.known.read(self.store.manifest(newest), leaves=False)
                self.note(newest)
            except (DamagedError, VersionError):
                pass  # nothing is shared with a checkpoint that cannot be read

    def step_exists(self, step: int) -> StepExistsError:
        """What to raise if the step is committed already."""
        return StepExistsError(
            f"{self.store.name} has step {step} already, by this run or by another process "
            "that saves to the same place: save another step, or pass overwrite=True"
        )

    def _clean_once(self) -> None:
        """Before the first save: remove what dead writers left."""
        if not self._cleaned:
            self._cleaned = True
            remove_leftovers(self.store)


class _Save:
    """The second half of a save, in a thread: it writes, and commits."""

    def __init__(
        self,
        writer: Writer,
        state: State,
        draft: Manifest,
        data: LeafData,
        locked: contextlib.ExitStack,
        *,
        began: float,
        overwrite: bool,
        live: bool,
        after: Callable[[SaveReport], None] | None,
    ) -> None:
        self._writer, self._state, self._draft, self._data = writer, state, draft, data
        self._locked, self._began = locked, began
        self._overwrite, self._live, self._after = overwrite, live, after

    def run(self, staging: Staging) -> SaveReport:
        """Commit what comes through `staging`."""
        store, data, step = self._writer.store, self._data, self._draft.step
        with self._locked:
            data.write(layout.new_pack_name(step), staging, live=self._live)
            try:
                final = self._completed()
                since, mark = self._commit(final)
            except BaseException:
                # An overwriting manifest may have its name already, though not for certain.
                if data.pack is not None and not self._overwrite:
                    store.storage.delete([data.pack.name])
                raise
            data.remember()  # only now: a pack that is discarded must not be found
            store.committed(final, since, mark)
            self._writer.note_committed(step)
        if self._overwrite:
            remove_replaced(store, step)
        report = SaveReport(
            step,
            store.name,
            len(self._state.leaves),
            sum(array.nbytes for array in data.arrays.values()),
            data.written,
            time.monotonic() - self._began,
        )
        if self._after is not None:
            self._after(report)
        return report

    def _completed(self) -> Manifest:
        """The manifest, now that all bytes have their place."""
        used = self._data.packs
        indices = {name: i for i, name in enumerate(used)}
        records: dict[str, Record] = {}
        for name, leaf in self._state.leaves.items():
            if is_plain(leaf):
                records[name] = PlainRecord(leaf)
            else:
                records[name] = placed(self._data.arrays[name], self._data.places, indices)
        return dataclasses.replace(self._draft, packs=tuple(used.values()), records=records)

    def _commit(self, final: Manifest) -> tuple[str | None, str | None]:
        """Name the manifest. Returns the mark as of which the names were known, and the new one."""
        store, data = self._writer.store, manifest.encode(final)
        since = store.names.mark
        name = layout.manifest_name(final.step)
        if self._overwrite:
            store.storage.replace(name, [data], len(data))
            store.forget(final.step)
            return since, None
        try:
            return since, store.storage.write(name, [data], len(data), since)
        except FileExistsError:
            raise self._writer.step_exists(final.step) from None


def _drafted(
    state: State, step: int, metrics: Mapping[str, Any] | None, metadata: Mapping[str, Any] | None
) -> Manifest:
    """What the manifest of a state says beside its leaves."""
    return Manifest(
        step=layout.check_step(step),
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        metrics=numbers({} if metrics is None else metrics),
        metadata=json_values({} if metadata is None else metadata),
        versions=versions(),
        objects=state.objects,
        ties=state.ties,
    )
