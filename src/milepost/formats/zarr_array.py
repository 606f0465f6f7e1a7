"""Arrays in Zarr's chunks, of version 2 or 3 of that format, wherever the chunks lie.

https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html
https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html

What the metadata may say is what Orbax and TensorStore write. No codec here makes more of
its input than `MAX_RATIO`: whoever declares more than that has left out chunks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np

from milepost.dtypes import Array
from milepost.encodings.compressed import MAX_RATIO, decompress
from milepost.encodings.crc32c import checksum
from milepost.errors import DamagedError, UsageError
from milepost.formats.zarr_metadata import Layout
from milepost.record import Box, as_index, overlap

Index = tuple[int, ...]

# Every chunk is a value in a database, or a file.
_MAX_CHUNKS = 1 << 20
# A chunk is decoded whole, however little of it is wanted.
_SMALL = 64 << 20
_CHUNK_RATIO = 100
_NONE = 2**64 - 1


class Blob(Protocol):
    """A value in storage."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes: ...


class Chunks(Protocol):
    """Where the chunks of arrays lie."""

    def find(self, key: str) -> Blob | None: ...


@dataclass(slots=True)
class Recent:
    """The chunk that was decoded last: who reads part after part needs it again.

    One tuple, replaced as a whole, so that threads may share it.
    """

    chunk: tuple[tuple[str, Index], Array] | None = None


@dataclass(frozen=True, slots=True)
class ZarrArray:
    """An array in chunks.

    Attributes:
        prefix: what the keys of its chunks begin with.
        stored: how many bytes there are in all, in the files of the checkpoint.
        sparse: whether a chunk of zeros may have been left out.
    """

    layout: Layout
    chunks: Chunks
    prefix: str
    stored: int
    sparse: bool
    recent: Recent = field(default_factory=Recent)

    def check(self) -> None:
        """Raise DamagedError if it declares more than its files can hold."""
        layout = self.layout
        count = math.prod(_count(n, m) for n, m in zip(layout.shape, layout.chunk, strict=True))
        if layout.nbytes > _SMALL + MAX_RATIO * self.stored or count > _MAX_CHUNKS:
            raise DamagedError(
                f"{self.prefix} declares {layout.nbytes:,} bytes in {count:,} chunks, more than "
                f"can be in files of {self.stored:,} bytes"
            )

    def read(self, box: Box) -> Array:
        """The part inside a box; raises DamagedError if it is missing, or not valid."""
        layout = self.layout
        sizes = [max(0, stop - start) for start, stop in box]
        wanted = math.prod(sizes) * layout.dtype.itemsize
        allowed = max(_SMALL, 2 * wanted, _CHUNK_RATIO * self.stored)
        if wanted and layout.chunk_nbytes > allowed:
            raise UsageError(
                f"{self.prefix} has chunks of {layout.chunk_nbytes:,} bytes, in files of "
                f"{self.stored:,}: it can be read whole, not in parts"
            )
        result: Any = np.empty(sizes, layout.dtype.newbyteorder("="))
        for index in self._touched(box):
            chunk: Any = self._chunk(index)
            low = [i * n for i, n in zip(index, layout.chunk, strict=True)]
            found = overlap(box, low, layout.chunk)
            if found is not None:
                target, inside = map(as_index, found)
                result[target] = 0 if chunk is None else chunk[inside]
        return cast(Array, result)

    def _touched(self, box: Box) -> Iterator[Index]:
        if any(start >= stop for start, stop in box):
            return iter(())
        ranges = [
            range(start // n, (stop - 1) // n + 1)
            for (start, stop), n in zip(box, self.layout.chunk, strict=True)
        ]
        return itertools.product(*ranges)

    def _chunk(self, index: Index) -> Array | None:
        """A decoded chunk; None if it was left out, because it is all zeros."""
        recent = self.recent.chunk
        if recent is not None and recent[0] == (self.prefix, index):
            return recent[1]
        data = self._encoded(index)
        if data is None:
            if self.sparse and self.layout.fill_is_zero:
                return None
            raise DamagedError(f"chunk {list(index)} of {self.prefix} is missing")
        layout = self.layout
        name = f"chunk {list(index)} of {self.prefix}"
        flat = decompress(layout.codecs, data, layout.chunk_nbytes, name).view(layout.dtype)
        chunk = flat.reshape(layout.chunk, order=layout.order)
        self.recent.chunk = (self.prefix, index), chunk
        return chunk

    def _encoded(self, index: Index) -> bytes | None:
        """The bytes of a chunk as they are stored, in a value of their own or in a shard."""
        layout = self.layout
        if layout.shard is None:
            blob = self.chunks.find(self.prefix + layout.key(index))
            return None if blob is None else self._read(blob, 0, blob.size)
        per_shard = [n // m for n, m in zip(layout.shard, layout.chunk, strict=True)]
        shard = tuple(i // n for i, n in zip(index, per_shard, strict=True))
        blob = self.chunks.find(self.prefix + layout.key(shard))
        if blob is None:
            return None
        inner = [i % n for i, n in zip(index, per_shard, strict=True)]
        number = 0
        for i, n in zip(inner, per_shard, strict=True):
            number = number * n + i
        return self._from_shard(blob, number, math.prod(per_shard))

    def _from_shard(self, blob: Blob, number: int, count: int) -> bytes | None:
        """Chunk `number` of a shard of `count` chunks, by the shard's own index."""
        nbytes = 16 * count + 4
        if nbytes > blob.size:
            raise DamagedError(f"a shard of {self.prefix} is cut short: it has {blob.size} bytes")
        table = blob.read(0 if self.layout.index_first else blob.size - nbytes, nbytes)
        if checksum()(table[:-4], 0) != int.from_bytes(table[-4:], "little"):
            raise DamagedError(f"the index of a shard of {self.prefix} is damaged")
        offset, length = (int(n) for n in np.frombuffer(table, "<u8", 2, 16 * number))
        return None if offset == length == _NONE else self._read(blob, offset, length)

    def _read(self, blob: Blob, offset: int, length: int) -> bytes:
        # No codec lengthens by more than this; a hostile place in a large file may.
        if offset + length > blob.size or length > 2 * self.layout.chunk_nbytes + 4096:
            raise DamagedError(f"a chunk of {self.prefix} has {length} bytes at {offset}")
        return blob.read(offset, length)


def _count(size: int, chunk: int) -> int:
    return -(-size // chunk)
