"""Arrays cut into chunks and digested, on their way into a file."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from milepost import digest, dtypes
from milepost.buffers import BLOCK
from milepost.chunk import Shape
from milepost.errors import UsageError
from milepost.light import light
from milepost.record import CHUNK_BYTES, chunk_boxes
from milepost.state import ArrayLike, InParts, is_in_parts
from milepost.workers import Workers, jobs

_THREADS = 2  # each reads memory as fast as a core can
_BLANK_DIGEST, _BLANK_CHECKSUM = digest.digest(b""), digest.checksum(b"")


@light
class Piece:
    """A chunk with its digest, before it has a place in a file."""

    offset: Shape
    shape: Shape
    start: int  # in bytes, from the start of its array
    nbytes: int
    digest: str
    checksum: str

    @property
    def box(self) -> tuple[Shape, Shape]:
        return self.offset, self.shape

    def digested(self, digest: str, checksum: str) -> Piece:
        """The same piece, now that these are known."""
        # `dataclasses.replace` takes ten times as long, and there can be very many.
        return Piece(self.offset, self.shape, self.start, self.nbytes, digest, checksum)


@light
class DigestedArray:
    """An array, cut and digested. Its bytes are fetched again when they are written."""

    name: str
    array: ArrayLike
    dtype: str
    shape: Shape
    nbytes: int
    pieces: tuple[Piece, ...]

    def digested(self, pieces: Iterable[Piece]) -> DigestedArray:
        """The same array with these pieces."""
        return DigestedArray(
            self.name, self.array, self.dtype, self.shape, self.nbytes, tuple(pieces)
        )

    def on_host(self) -> DigestedArray:
        """The same array in this process's memory, as it is now: a copy, if it is not there."""
        array = np.asarray(self.array)
        return DigestedArray(self.name, array, self.dtype, self.shape, self.nbytes, self.pieces)

    def data(self, pieces: Sequence[Piece]) -> Iterator[memoryview]:
        """The bytes of some of the pieces.

        Raises:
            UsageError: they are no longer what was digested.
        """
        for piece, data in self.present(pieces):
            if digest.checksum(data) != piece.checksum:
                raise self._changed()
            yield data

    def check(self) -> None:
        """Raises UsageError if the bytes are no longer what was digested."""
        for _ in self.data(self.pieces):
            pass

    def present(self, pieces: Sequence[Piece]) -> Iterable[tuple[Piece, memoryview]]:
        """Some of the pieces with the bytes that they have now, whatever was digested.

        Raises:
            UsageError: they are of another number.
        """
        if is_in_parts(self.array):
            return self._streamed(self.array, pieces)
        whole = dtypes.stored_view(np.asarray(self.array))
        if len(whole) != self.nbytes:
            raise self._changed()
        if len(self.pieces) == 1:  # most often
            return [(piece, whole) for piece in pieces]
        return [(piece, whole[piece.start : piece.start + piece.nbytes]) for piece in pieces]

    def _streamed(
        self, array: InParts, pieces: Iterable[Piece]
    ) -> Iterator[tuple[Piece, memoryview]]:
        stream = _Stream(array.stored_parts())
        for piece in pieces:
            data = stream.read(piece.start, piece.nbytes)
            if len(data) != piece.nbytes:
                raise self._changed()
            yield piece, data
        # A reader of parts may have something to add after the last one.
        if stream.end == self.nbytes and stream.read(stream.end, 1):
            raise self._changed()

    def _changed(self) -> UsageError:
        return UsageError(
            f"leaf {self.name!r} changed while it was being saved: another thread "
            "writes to it; save between training steps"
        )


def check_all(arrays: Iterable[DigestedArray]) -> None:
    """As `check` of each; large ones by several threads."""
    with Workers(_THREADS, "milepost-check") as workers:
        found = jobs(arrays, lambda array: array.nbytes)
        running = [workers.submit(_check, job) for job in found]
    for job in running:
        job.result()


def _check(arrays: Iterable[DigestedArray]) -> None:
    for array in arrays:
        array.check()


class _Stream:
    """Bytes that come in parts of any size, read forwards in spans of another."""

    def __init__(self, parts: Iterable[memoryview]) -> None:
        self._parts = iter(parts)
        self._part = memoryview(b"")
        self._start = 0  # of the part, from the start of all

    def read(self, start: int, size: int) -> memoryview:
        """The bytes of a span that does not begin before the end of the last; fewer at the end."""
        while self.end <= start and self._next():
            pass
        found = self._part[start - self._start :][:size]
        if len(found) == size:
            return found  # most often: not copied
        joined = bytearray(found)
        while len(joined) < size and self._next():
            joined += self._part[: size - len(joined)]
        return memoryview(joined)

    @property
    def end(self) -> int:
        """The end of what was asked of the parts so far."""
        return self._start + len(self._part)

    def _next(self) -> bool:
        part = next(self._parts, None)
        if part is None:
            return False
        self._start = self.end
        self._part = part
        return True


def digest_array(name: str, array: ArrayLike) -> DigestedArray:
    """Cut an array into chunks and digest each."""
    # Fetched once, here, from wherever it is, unless it may be too large for that.
    whole = cut_array(name, array if is_in_parts(array) else np.asarray(array))
    pieces = tuple(
        piece.digested(digest.digest(data), digest.checksum(data))
        for piece, data in whole.present(whole.pieces)
    )
    return DigestedArray(name, array, whole.dtype, whole.shape, whole.nbytes, pieces)


def cut_array(name: str, array: ArrayLike) -> DigestedArray:
    """Cut an array into chunks without looking at its bytes: their digests are left blank.

    A blank digest is as long as a real one.
    """
    dtype, shape = dtypes.dtype_name(array.dtype), tuple(array.shape)
    nbytes, pieces = _cut(shape, dtypes.numpy_dtype(dtype).itemsize, CHUNK_BYTES)
    return DigestedArray(name, array, dtype, shape, nbytes, pieces)


@functools.lru_cache(256)  # a model's arrays have few shapes, and are cut at every save
def _cut(shape: Shape, itemsize: int, most: int) -> tuple[int, tuple[Piece, ...]]:
    start, pieces = 0, []
    for offset, box in chunk_boxes(shape, itemsize, most):
        nbytes = math.prod(box) * itemsize
        pieces.append(Piece(offset, box, start, nbytes, _BLANK_DIGEST, _BLANK_CHECKSUM))
        start += nbytes
    return start, tuple(pieces)


def layout_order(array: DigestedArray) -> tuple[bool, int]:
    """By what to sort the arrays of a file.

    Whole blocks first, which can be written from where they lie; and wide elements first:
    then each tensor is aligned to its own element size.
    """
    has_rest = any(piece.nbytes % BLOCK for piece in array.pieces)
    return has_rest, -dtypes.numpy_dtype(array.dtype).itemsize
