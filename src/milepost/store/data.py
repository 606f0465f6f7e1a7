"""The bytes of a checkpoint's arrays, in one pass: copy, digest, write what is new.

Each chunk is copied into a buffer, and it is the copy that is digested and written: so what
is on the disk is what its digest says, whatever becomes of the array meanwhile. What is
known to be unchanged since the last save is not copied, what turns out to be equal to
something in the store is dropped again, and the rest follows one another in the file.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

from milepost import digest
from milepost.digest import Buffer
from milepost.pieces import DigestedArray, Piece, cut_array
from milepost.state import State, is_array
from milepost.storage.base import NewObject, Storage
from milepost.store.known import Fingerprint, Known, fingerprint
from milepost.store.manifest import PackRef
from milepost.store.pack import PackPlan, Place


class LeafData:
    """The arrays of one state on their way into the store.

    Attributes, once `write` has returned:
        arrays: name -> the array, digested; of tied leaves too.
        places: digest -> where its bytes lie, for all that these arrays need.
        pack: the new pack, if anything was new.
        written: how many bytes of arrays were.
    """

    def __init__(self, storage: Storage, known: Known, state: State) -> None:
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

    @property
    def packs(self) -> Mapping[str, PackRef]:
        """Every pack that these arrays need, by name."""
        return {place.pack.name: place.pack for place in self.places.values()}

    def write(self, name: str) -> None:
        """Write a pack of this name with what the store does not have; none if it has all.

        Raises:
            UsageError: an array was changed meanwhile.
            StorageError: the storage refused; there is no such pack.
        """
        changed = self._changed()
        if changed:
            self._write_pack(name, PackPlan(changed))
        self.arrays = {name: self._with_digests(array) for name, array in self.arrays.items()}
        for tied, first in self._state.ties.items():
            if first in self.arrays:
                self.arrays[tied] = replace(self.arrays[first], name=tied)

    def remember(self) -> None:
        """The checkpoint is committed: the next one is compared with it."""
        untied = {n: a for n, a in self.arrays.items() if n not in self._state.ties}
        self._known.remember(untied, self._fingerprints, self._state.immutable, self.places)

    def _changed(self) -> list[tuple[DigestedArray, list[Piece]]]:
        """The arrays that are not all what they were at the last save, and which pieces."""
        changed = []
        unchanged = self._known.unchanged(self.arrays.values())
        for array in self.arrays.values():
            same, fingerprints = unchanged.get(array.name, ([], {}))
            self._fingerprints[array.name] = fingerprints
            digested = self._digested[array.name]
            for piece in same:
                digested[piece.start] = piece
                place = self._known.place(piece.digest)
                assert place is not None, "what is unchanged has a place"
                self.places[piece.digest] = place
            if len(same) < len(array.pieces):
                rest = [piece for piece in array.pieces if piece.start not in digested]
                changed.append((array, rest))
        return changed

    def _write_pack(self, name: str, plan: PackPlan) -> None:
        with self._storage.create(name, plan.head_bytes, plan.nbytes, plan.largest) as pack:
            for array, pieces in plan.candidates:
                for piece, data in array.present(pieces):
                    self._take(pack, plan, array, piece, data)
            # That each holds one moment, not two: while the last is on its way to the disk.
            for array, _ in plan.candidates:
                self._with_digests(array).check()
            if not plan.digests:
                return
            pack.flush()
            self.pack, header, places = plan.layout(name)
            pack.finish(header)
        self.places.update(places)

    def _take(
        self,
        pack: NewObject,
        plan: PackPlan,
        array: DigestedArray,
        piece: Piece,
        data: Buffer,
    ) -> None:
        """Digest a piece, and let the pack have it if it is new."""
        copy = pack.stage(data)
        piece = replace(piece, digest=digest.digest(copy), checksum=digest.checksum(copy))
        self._digested[array.name][piece.start] = piece
        remember = functools.partial(self._remember, self._fingerprints[array.name], piece.start)
        place = self._known.place(piece.digest)
        if place is None and piece.digest not in plan.digests:
            plan.keep(array, piece)
            pack.keep(remember)
            self.written += piece.nbytes
            return
        remember(copy)
        if place is not None:
            self.places[piece.digest] = place

    @staticmethod
    def _remember(fingerprints: dict[int, Fingerprint], start: int, data: Buffer) -> None:
        found = fingerprint(data)
        if found is not None:
            fingerprints[start] = found

    def _with_digests(self, array: DigestedArray) -> DigestedArray:
        digested = self._digested[array.name]
        return replace(array, pieces=tuple(digested[piece.start] for piece in array.pieces))
