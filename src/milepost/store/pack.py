"""Packs: immutable safetensors files that hold what a checkpoint was the first to save.

A pack can be read by any safetensors reader: a leaf that is wholly new is one tensor under
its own name, the new chunks of one that is not are tensors named like slices
(`embedding[4096:8192,0:128]`). Its `__metadata__` lists the digest of every chunk inside, so
that where data lies can be found again from the packs alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

from milepost import container, digest, dtypes, sealed
from milepost.buffers import BLOCK
from milepost.chunk import Chunk, Shape
from milepost.jsontext import quoted
from milepost.light import light
from milepost.pieces import DigestedArray, Piece, layout_order
from milepost.record import ArrayRecord
from milepost.store.manifest import PackRef


@light
class Place:
    """Where the bytes of one digest lie."""

    pack: PackRef
    position: int


class PackPlan:
    """What may go into a pack that is about to be written, and what did.

    How long its header will be is not known before the data has passed by: what is equal to
    something else is found only then. So the room for it is that of the longest.
    """

    def __init__(self, candidates: Iterable[tuple[DigestedArray, Sequence[Piece]]]) -> None:
        """The pieces of each array that may be new.

        Nothing else is done with them here, where training may be waiting.
        """
        self.candidates = sorted(candidates, key=lambda candidate: layout_order(candidate[0]))
        self.digests: set[str] = set()  # of what was kept
        self._kept: dict[str, list[Piece]] = {}

    @functools.cached_property
    def head_bytes(self) -> int:
        """How much room the header has, at the file's beginning."""
        entries = [e for a, pieces in self.candidates for e in self._entries(a, pieces, cut=True)]
        return _room(entries, self._data_bytes)

    @property
    def nbytes(self) -> int:
        """The most bytes that the file may have."""
        return self.head_bytes + self._data_bytes

    @functools.cached_property
    def _data_bytes(self) -> int:
        return sum([piece.nbytes for _, pieces in self.candidates for piece in pieces])

    @functools.cached_property
    def _names(self) -> tuple[dict[str, str], dict[tuple[str, int], str]]:
        """What the tensors are called that hold whole arrays, and pieces of them."""
        taken = {"__metadata__"}
        whole = {array.name: unique_name(array.name, taken) for array, _ in self.candidates}
        slices = {
            (array.name, piece.start): unique_name(
                slice_name(array.name, piece.offset, piece.shape), taken
            )
            for array, pieces in self.candidates
            for piece in pieces
            if len(array.pieces) > 1
        }
        return whole, slices

    def keep(self, array: DigestedArray, piece: Piece) -> None:
        """A piece is new, and follows the one before in the file."""
        self._kept.setdefault(array.name, []).append(piece)
        self.digests.add(piece.digest)

    def layout(self, name: str) -> tuple[PackRef, bytes, dict[str, Place]]:
        """The pack's reference, its header, and the place of every digest in it."""
        entries = [
            entry
            for array, _ in self.candidates
            for entry in self._entries(array, self._kept.get(array.name, ()))
        ]
        header, length = _header(entries, self.head_bytes)
        ref = PackRef(name, len(header) + length, digest.digest(header))
        places, position = {}, len(header)
        for entry in entries:
            for piece in entry.pieces:
                places[piece.digest] = Place(ref, position)
                position += piece.nbytes
        return ref, header, places

    def _entries(
        self, array: DigestedArray, pieces: Sequence[Piece], *, cut: bool = False
    ) -> Iterator[_Entry]:
        """The tensors that hold some pieces of an array: one if they are all, if not `cut`."""
        if not pieces:
            return
        whole, slices = self._names
        if len(array.pieces) == 1 or (len(pieces) == len(array.pieces) and not cut):
            code, shape = dtypes.container_type(array.dtype, array.shape)
            yield _Entry(whole[array.name], code, shape, array.nbytes, pieces)
            return
        for piece in pieces:
            code, shape = dtypes.container_type(array.dtype, piece.shape)
            name = slices[array.name, piece.start]
            yield _Entry(name, code, shape, piece.nbytes, (piece,))


@light
class _Entry:
    name: str
    code: str
    shape: Shape
    nbytes: int
    pieces: Sequence[Piece]


def _header(entries: Sequence[_Entry], alignment: int) -> tuple[bytes, int]:
    chunks = [
        f'[{quoted(entry.name)},{piece.nbytes},"{piece.digest}","{piece.checksum}"]'
        for entry in entries
        for piece in entry.pieces
    ]
    body = sealed.seal("pack", {}, chunks=f"[{','.join(chunks)}]")
    return container.build_header(
        ((e.name, e.code, e.shape, e.nbytes) for e in entries),
        {"milepost": body.decode()},
        alignment,
    )


def _room(entries: Sequence[_Entry], nbytes: int) -> int:
    """No fewer bytes than a header of these entries takes: whole blocks.

    To count them is much cheaper than to make a header of digests that are not known yet.
    """
    outer = len(f':{{"dtype":"","shape":,"data_offsets":[{nbytes},{nbytes}]}},')
    inner = len(r"[,,\"\",\"\"],")
    room = len(_header((), 1)[0])
    for entry in entries:
        name_inside, name = _quoted_lengths(entry.name)
        room += outer + name + len(entry.code) + len(str(entry.shape))
        for piece in entry.pieces:
            sums = len(piece.digest) + len(piece.checksum)
            room += inner + name_inside + len(str(piece.nbytes)) + sums
    return room + -room % BLOCK


def _quoted_lengths(name: str) -> tuple[int, int]:
    """The bytes of a name in JSON that is a text inside JSON, and in JSON; quotes are counted."""
    if name.isascii() and name.isprintable() and '"' not in name and "\\" not in name:
        return len(name) + len(r"\"\""), len(name) + len('""')
    text = quoted(name)
    return len(quoted(text).encode()), len(text.encode())


def placed(leaf: DigestedArray, places: dict[str, Place], packs: dict[str, int]) -> ArrayRecord:
    """The record of a leaf, once every one of its digests has a place.

    `packs` gives each pack's index in the manifest, by name.
    """
    chunks = []
    for piece in leaf.pieces:
        place = places[piece.digest]
        file = packs[place.pack.name]
        box, sums = (piece.offset, piece.shape), (piece.digest, piece.checksum)
        chunks.append(Chunk(*box, *sums, file, place.position, piece.nbytes))
    return ArrayRecord(leaf.dtype, leaf.shape, tuple(chunks))


def slice_name(leaf: str, offset: Shape, shape: Shape) -> str:
    """What a part of a leaf is called in a pack."""
    spans = ",".join(f"{o}:{o + n}" for o, n in zip(offset, shape, strict=True))
    return f"{leaf}[{spans}]"


def unique_name(name: str, taken: set[str]) -> str:
    """A name that is not taken, and is from now on."""
    found, copy = name, 2
    while found in taken:
        found, copy = f"{name}~{copy}", copy + 1
    taken.add(found)
    return found
