"""Arrays cut into chunks and digested, on their way into a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from milepost import digest, dtypes
from milepost.errors import UsageError
from milepost.record import CHUNK_BYTES, Shape, chunk_boxes
from milepost.state import ArrayLike


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk with its digest, before it has a place in a file."""

    offset: Shape
    shape: Shape
    start: int  # in bytes, from the start of its array
    nbytes: int
    digest: str
    checksum: str


@dataclass(frozen=True, slots=True)
class DigestedArray:
    """An array, cut and digested. Its bytes are fetched again when they are written."""

    name: str
    array: ArrayLike
    dtype: str
    shape: Shape
    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        return sum(piece.nbytes for piece in self.pieces)

    def data(self, pieces: Iterable[Piece]) -> Iterator[memoryview]:
        """The bytes of some of the pieces.

        Raises:
            UsageError: they are no longer what was digested.
        """
        view = dtypes.byte_view(dtypes.to_stored(np.asarray(self.array)))
        for piece in pieces:
            data = view[piece.start : piece.start + piece.nbytes]
            if digest.checksum(data) != piece.checksum:
                raise UsageError(
                    f"leaf {self.name!r} changed while it was being saved: another thread "
                    "writes to it; save between training steps"
                )
            yield data


def digest_array(name: str, array: ArrayLike) -> DigestedArray:
    """Cut an array into chunks and digest each."""
    stored = dtypes.to_stored(np.asarray(array))
    dtype = dtypes.dtype_name(stored.dtype)
    view, start, pieces = dtypes.byte_view(stored), 0, []
    for offset, shape in chunk_boxes(stored.shape, stored.dtype.itemsize, CHUNK_BYTES):
        nbytes = math.prod(shape) * stored.dtype.itemsize
        data = view[start : start + nbytes]
        pieces.append(
            Piece(offset, shape, start, nbytes, digest.digest(data), digest.checksum(data))
        )
        start += nbytes
    return DigestedArray(name, array, dtype, stored.shape, tuple(pieces))
