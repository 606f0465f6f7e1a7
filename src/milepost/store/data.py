"""The bytes of a checkpoint's arrays on their way into a store: what is new is written.

What is known to be unchanged since the last save is not even copied, what turns out to be
equal to something in the store is dropped, and the rest follows one another in a pack.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from milepost.fingerprint import Fingerprint
from milepost.pieces import DigestedArray, Piece, check_all, cut_array
from milepost.staging import Batch, Candidate, Slots, Staging, Transfer
from milepost.state import State, is_array
from milepost.storage.base import NewObject, Storage
from milepost.store.known import Known, Unchanged
from milepost.store.manifest import PackRef
from milepost.store.pack import PackPlan, Place


class LeafData:
    """The arrays of one state on their way into the store.

    First they are compared with those of the last save, here. Then `fill` copies what may be
    new, and beside it, in another thread, `write` writes it.

    Attributes, once `write` has returned:
        arrays: name -> the array, digested; of tied leaves too.
        places: digest -> where its bytes lie, for all that these arrays need.
        pack: the new pack, if anything was new.
        written: how many bytes of arrays were.
    """

    def __init__(
        self, storage: Storage, known: Known, state: State, *, background: bool = False
    ) -> None:
        """In the `background`, whose caller waits for this, nobody looks at constant arrays."""
        self.pack: PackRef | None = None
        self.written = 0
        self.places: dict[str, Place] = {}
        self._storage, self._known, self._state = storage, known, state
        self.arrays: dict[str, DigestedArray] = {
            name: cut_array(name, leaf)
            for name, leaf in state.leaves.items()
            if is_array(leaf) and name not in state.ties
        }
        self._digested: dict[str, dict[int, Piece]] = {name: {} for name in self.arrays}
        self._fingerprints: dict[str, dict[int, Fingerprint]] = {}
        unchanged = known.unchanged(self.arrays.values(), state.immutable if background else ())
        self._plan = PackPlan(self._changed(unchanged))

    @property
    def packs(self) -> Mapping[str, PackRef]:
        """Every pack that these arrays need, by name."""
        return {place.pack.name: place.pack for place in self.places.values()}

    def _changed(self, unchanged: Mapping[str, Unchanged]) -> list[Candidate]:
        """The arrays that are not all what they were at the last save, and which pieces."""
        changed: list[Candidate] = []
        for array in self.arrays.values():
            same, self._fingerprints[array.name] = unchanged.get(array.name) or ([], {})
            if not same:  # most often: all or nothing
                if array.pieces:
                    changed.append((array, array.pieces))
                continue
            digested = self._digested[array.name]
            for piece in same:
                digested[piece.start] = piece
                self.places[piece.digest] = self._known.places[piece.digest]
            if len(same) < len(array.pieces):
                rest = [piece for piece in array.pieces if piece.start not in digested]
                changed.append((array, rest))
        return changed

    def fill(self, transfer: Transfer[Any], slots: Slots, few: Slots | None = None) -> None:
        """Copy what may be new; with `few` slots, later, what can never change.

        Everything else may be changed once this returns.
        """
        if few is None:
            transfer.fill(self._plan.candidates, slots)
            transfer.end()
            return
        constant = [self._held(c) for c in self._plan.candidates if self._is_constant(c)]
        transfer.fill([c for c in self._plan.candidates if not self._is_constant(c)], slots)
        transfer.fill_later(constant, few)

    def _is_constant(self, candidate: Candidate) -> bool:
        return candidate[0].name in self._state.immutable

    @staticmethod
    def _held(candidate: Candidate) -> Candidate:
        """With its array on the host, where no computation can be given its memory."""
        array, pieces = candidate
        return array.on_host(), pieces

    def write(self, name: str, staging: Staging, *, live: bool) -> None:
        """Write a pack of this name with what the store does not have; none if it has all.

        Arguments:
            name: of the pack.
            staging: what `fill` fills.
            live: whether the arrays may not have changed: then that is checked.

        Raises:
            UsageError: an array was changed meanwhile.
            StorageError: the storage refused; there is no such pack.
        """
        if self._plan.candidates:
            self._write_pack(name, staging, live)
        else:
            self._digest_all()
        for tied, first in self._state.ties.items():
            if first in self.arrays:
                self.arrays[tied] = replace(self.arrays[first], name=tied)

    def remember(self) -> None:
        """The checkpoint is committed: the next one is compared with it."""
        untied = {n: a for n, a in self.arrays.items() if n not in self._state.ties}
        self._known.remember(untied, self._fingerprints, self._state.immutable, self.places)

    def _write_pack(self, name: str, staging: Staging, live: bool) -> None:
        plan = self._plan
        with (
            self._storage.create(name, plan.head_bytes, plan.nbytes) as pack,
            contextlib.closing(staging.digested()) as batches,
        ):
            for batch in batches:
                self._take(pack, batch)
            # That each holds one moment, not two: while the last is on its way to the disk.
            self._digest_all()
            if live:
                check_all(self.arrays[array.name] for array, _ in plan.candidates)
            if not plan.digests:
                return
            self.pack, header, places = plan.layout(name)
            pack.finish(header)
        self.places.update(places)

    def _take(self, pack: NewObject, batch: Batch) -> None:
        """Let the pack have what is new in a batch."""
        new = []
        for (array, _), piece, found in zip(
            batch.parts, batch.pieces, batch.fingerprints, strict=True
        ):
            self._digested[array.name][piece.start] = piece
            if found is not None:
                self._fingerprints[array.name][piece.start] = found
            new.append(self._is_new(array, piece))
        for span in batch.spans(new):
            pack.append(*span)
        if not any(new):
            batch.free()

    def _is_new(self, array: DigestedArray, piece: Piece) -> bool:
        place = self._known.place(piece.digest)
        if place is not None:
            self.places[piece.digest] = place
            return False
        if piece.digest in self._plan.digests:
            return False
        self._plan.keep(array, piece)
        self.written += piece.nbytes
        return True

    def _digest_all(self) -> None:
        """All pieces have been digested, now or before."""
        for name, array in self.arrays.items():
            digested = self._digested[name]
            self.arrays[name] = array.digested([digested[p.start] for p in array.pieces])
