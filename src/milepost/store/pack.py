"""Packs: immutable safetensors files that hold what a checkpoint was the first to save.

A pack can be read by any safetensors reader: a leaf that is wholly new is one tensor under
its own name, the new chunks of one that is not are tensors named like slices
(`embedding[4096:8192,0:128]`). Its `__metadata__` lists the digest of every chunk inside, so
that where data lies can be found again from the packs alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from milepost import container, digest, dtypes, sealed
from milepost.digest import Buffer
from milepost.pieces import DigestedArray, Piece
from milepost.record import ArrayRecord, Chunk, Shape
from milepost.store.manifest import PackRef


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of one digest lie."""

    pack: PackRef
    position: int


@dataclass(slots=True)
class PackPlan:
    """The contents of a pack that is about to be written."""

    entries: list[_Entry] = field(default_factory=list)

    def add(self, leaf: DigestedArray, new: set[str]) -> None:
        """Take those chunks of a leaf whose digest is in `new`, once each."""
        pieces = {piece.digest: piece for piece in leaf.pieces if piece.digest in new}
        if not pieces:
            return
        if len(pieces) == len(leaf.pieces):
            code, shape = dtypes.container_type(leaf.dtype, leaf.shape)
            self.entries.append(_Entry(leaf.name, code, shape, leaf, leaf.pieces))
        else:
            for piece in pieces.values():
                code, shape = dtypes.container_type(leaf.dtype, piece.shape)
                self.entries.append(
                    _Entry(_slice_name(leaf.name, piece), code, shape, leaf, (piece,))
                )
        new.difference_update(pieces)

    @property
    def data_bytes(self) -> int:
        return sum(entry.nbytes for entry in self.entries)

    def layout(self, name: str) -> tuple[PackRef, bytes, dict[str, int]]:
        """The pack's reference, its header, and the position of every digest in it."""
        # Wide elements first: then each tensor is aligned to its own element size.
        self.entries.sort(key=lambda entry: -dtypes.numpy_dtype(entry.leaf.dtype).itemsize)
        _make_names_unique(self.entries)
        chunks = [
            [entry.name, piece.nbytes, piece.digest, piece.checksum]
            for entry in self.entries
            for piece in entry.pieces
        ]
        header, length = container.build_header(
            ((e.name, e.code, e.shape, e.nbytes) for e in self.entries),
            {"milepost": sealed.seal("pack", {"chunks": chunks}).decode()},
        )
        ref = PackRef(name, len(header) + length, digest.digest(header))
        positions, position = {}, len(header)
        for entry in self.entries:
            for piece in entry.pieces:
                positions[piece.digest] = position
                position += piece.nbytes
        return ref, header, positions

    def parts(self, header: bytes) -> Iterator[Buffer]:
        """The bytes of the file, part by part.

        Raises:
            UsageError: an array is no longer what was digested.
        """
        yield header
        for _, entries in itertools.groupby(self.entries, key=lambda entry: entry.leaf.name):
            of_leaf = list(entries)  # the pieces of one leaf follow one another
            yield from of_leaf[0].leaf.data(piece for entry in of_leaf for piece in entry.pieces)


@dataclass(slots=True)
class _Entry:
    name: str
    code: str
    shape: Shape
    leaf: DigestedArray
    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        return sum(piece.nbytes for piece in self.pieces)


def placed(leaf: DigestedArray, places: dict[str, Place], packs: dict[str, int]) -> ArrayRecord:
    """The record of a leaf, once every one of its digests has a place.

    `packs` gives each pack's index in the manifest, by name.
    """
    chunks = tuple(
        Chunk(
            piece.offset,
            piece.shape,
            piece.digest,
            piece.checksum,
            packs[places[piece.digest].pack.name],
            places[piece.digest].position,
            piece.nbytes,
        )
        for piece in leaf.pieces
    )
    return ArrayRecord(leaf.dtype, leaf.shape, chunks)


def _slice_name(leaf: str, piece: Piece) -> str:
    spans = ",".join(f"{o}:{o + n}" for o, n in zip(piece.offset, piece.shape, strict=True))
    return f"{leaf}[{spans}]"


def _make_names_unique(entries: Iterable[_Entry]) -> None:
    taken: set[str] = {"__metadata__"}
    for entry in entries:
        name, copy = entry.name, 2
        while entry.name in taken:
            entry.name, copy = f"{name}~{copy}", copy + 1
        taken.add(entry.name)
