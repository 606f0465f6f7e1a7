"""What a writer knows of the data that its store holds already, so as not to write it again.

Two questions, asked of every chunk before a save writes it. Where do bytes of this digest
lie? And, sooner: is this chunk what it was at the last save, so that it need not even be
digested? The second is answered by comparing a fingerprint of what it is now (XXH3, 128
bits, at the speed of memory) with that of then; most chunks that did change are told apart
by their first bytes. Nothing else is trusted: PyTorch's version counters, for one, do not
notice what is written through `.data` or a NumPy array that shares the memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

from milepost import digest
from milepost.chunk import Shape
from milepost.errors import PathNotFoundError
from milepost.fingerprint import Fingerprint, checked
from milepost.light import light
from milepost.pieces import DigestedArray, Piece
from milepost.record import ArrayRecord
from milepost.state import ArrayLike, is_in_parts
from milepost.storage.base import Storage
from milepost.store.manifest import Manifest, PackRef
from milepost.store.pack import Place
from milepost.workers import Workers, jobs

_THREADS = 2
# Places of data beyond that of the last save are remembered up to about so many.
_REMEMBERED = 100_000


@light
class _Saved:
    """A leaf as it was saved last. `source` is the array itself, if it can never change."""

    dtype: str
    shape: Shape
    pieces: tuple[Piece, ...]
    fingerprints: Mapping[int, Fingerprint]  # by the start of the piece
    source: weakref.ref[ArrayLike] | None

    def source_is(self, array: ArrayLike) -> bool:
        """Whether this is the very array that was saved."""
        return self.source is not None and self.source() is array


# Pieces of an array that are what they were, and their fingerprints by their start.
Unchanged: TypeAlias = tuple[list[Piece], dict[int, Fingerprint]]


class Known:
    """The places of digests, and the leaves of the last save.

    `places` may lie in packs that are gone; `place` has looked.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.places: dict[str, Place] = {}
        self._saved: dict[str, _Saved] = {}
        self._there: dict[PackRef, bool] = {}

    def begin(self) -> None:
        """Before a save: packs may have been removed since the last one."""
        self._there.clear()

    def place(self, value: str) -> Place | None:
        """Where the bytes of a digest lie, if they are known to lie anywhere."""
        place = self.places.get(value)
        if place is None:
            return None
        if place.pack not in self._there:
            self._there[place.pack] = self._is_there(place.pack)
        if not self._there[place.pack]:
            self.places.pop(value, None)
            return None
        return place

    def _is_there(self, ref: PackRef) -> bool:
        try:
            source = self._storage.open(ref.name)
        except PathNotFoundError:
            return False
        try:
            return source.size == ref.nbytes
        finally:
            source.close()

    def read(self, found: Manifest, *, leaves: bool) -> None:
        """Remember what a checkpoint holds; its leaves too, if they are those in use now."""
        for name, record in found.records.items():
            if not isinstance(record, ArrayRecord):
                continue
            pieces, start = [], 0
            for chunk in record.chunks:
                value, checksum = str(chunk.digest), str(chunk.checksum)
                if not chunk.is_encoded:
                    place = Place(found.packs[chunk.file], chunk.position)
                    self.places.setdefault(value, place)
                pieces.append(
                    Piece(chunk.offset, chunk.shape, start, chunk.nbytes, value, checksum)
                )
                start += chunk.nbytes
            if leaves or name not in self._saved:
                self._saved[name] = _Saved(record.dtype, record.shape, tuple(pieces), {}, None)

    def remember(
        self,
        arrays: Mapping[str, DigestedArray],
        fingerprints: Mapping[str, Mapping[int, Fingerprint]],
        immutable: Iterable[str],
        places: Mapping[str, Place],
    ) -> None:
        """After a save: what was saved is what the next one is compared with."""
        constant = set(immutable)
        self._saved = {
            name: _Saved(
                array.dtype,
                array.shape,
                array.pieces,
                fingerprints.get(name, {}),
                weakref.ref(array.array) if name in constant else None,
            )
            for name, array in arrays.items()
        }
        for value, place in places.items():
            self.places.pop(value, None)  # to the end, which is the last to be forgotten
            self.places[value] = place
        for value in list(self.places)[: -(_REMEMBERED + len(places))]:
            self.places.pop(value, None)

    def unchanged(
        self, arrays: Iterable[DigestedArray], constant: Collection[str] = ()
    ) -> dict[str, Unchanged]:
        """Of each array what has not changed.

        Of one that is `constant` nobody looks at the bytes: it is the very array of the last
        save, or another.
        """
        found: dict[str, Unchanged] = {}
        candidates = []
        for array in arrays:
            if not self._is_comparable(array):
                continue
            if self._saved[array.name].source_is(array.array):
                found[array.name] = self._all_of(array.name)
            elif array.name not in constant:
                candidates.append(array)
        with Workers(_THREADS, "milepost-compare") as workers:
            running = [
                workers.submit(self._all_compared, job)
                for job in jobs(candidates, lambda array: array.nbytes)
            ]
        return found | {name: result for job in running for name, result in job.result()}

    def _all_compared(self, arrays: Iterable[DigestedArray]) -> list[tuple[str, Unchanged]]:
        return [(array.name, self._compared(array)) for array in arrays]

    def _all_of(self, name: str) -> Unchanged:
        saved = self._saved[name]
        there = [piece for piece in saved.pieces if self.place(piece.digest)]
        return there, dict(saved.fingerprints)

    def _is_comparable(self, array: DigestedArray) -> bool:
        saved = self._saved.get(array.name)
        return (
            saved is not None
            and not is_in_parts(array.array)
            and saved.dtype == array.dtype
            and saved.shape == array.shape
            and len(saved.pieces) == len(array.pieces)
        )

    def _compared(self, array: DigestedArray) -> Unchanged:
        there, known = self._all_of(array.name)
        pieces, fingerprints = [], {}
        for piece, data in array.present(there):
            before = known.get(piece.start)
            if before is None and digest.digest(data) == piece.digest:
                _, before = checked(data)
            elif before is None or not before.fits(data):
                continue
            pieces.append(piece)
            if before is not None:
                fingerprints[piece.start] = before
        return pieces, fingerprints
