"""Snapshots: states in storage, read-only and lazy, whatever their file format.

Names, dtypes and shapes are there at once; bytes are read only when asked for, and every
chunk that is read is checked against its checksum.
"""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np

from milepost import decoding, digest, dtypes, reading
from milepost.buffers import NewArrays, new_array
from milepost.chunk import Chunk
from milepost.dtypes import Array
from milepost.errors import LeafNotFoundError, MilepostError
from milepost.lazy import LazyArray
from milepost.reading import Part
from milepost.record import (
    ArrayRecord,
    Box,
    ForeignArray,
    PlainRecord,
    Record,
    as_index,
    chunk_boxes,
    overlap,
)
from milepost.source import ByteSource, Look, fill_exactly
from milepost.state import LeafSpec, ObjectInfo, Plain
from milepost.workers import Workers

_THREADS = 2


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that `verify` found wrong."""

    file: str
    leaf: str | None
    problem: str

    def __str__(self) -> str:
        leaf = "" if self.leaf is None else f", leaf {self.leaf!r}"
        return f"{self.file}{leaf}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Description:
    """What a snapshot tells of itself, beside its leaves."""

    format: str  # "milepost checkpoint", "milepost model", "safetensors", ...
    metadata: Mapping[str, Any] = field(default_factory=dict)
    objects: Mapping[str, ObjectInfo] = field(default_factory=dict)


class Snapshot(Mapping[str, "Plain | LazyArray"]):
    """A state in storage: a mapping from the names of leaves to plain values and lazy arrays.

    Use it as a context manager, or call `close`, to let go of its files.
    """

    def __init__(
        self,
        name: str,
        records: Mapping[str, Record],
        files: Sequence[ByteSource],
        description: Description,
    ) -> None:
        self.name = name
        self.description = description
        self._records = records
        self._files = files

    def __getitem__(self, name: str) -> Plain | LazyArray:
        record = self.record(name)
        return record.value if isinstance(record, PlainRecord) else LazyArray(self, name, record)

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {len(self)} leaves>"

    @property
    def files(self) -> list[str]:
        """The paths of the files whose bytes it reads itself; a format may have others."""
        return [file.name for file in self._files]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files. Arrays read before stay valid."""
        for file in self._files:
            file.close()

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What was recorded with the snapshot: plain JSON values."""
        return self.description.metadata

    def facts(self) -> dict[str, Any]:
        """What there is to say of the snapshot, beside its leaves: JSON values."""
        return {
            "format": self.description.format,
            "metadata": dict(self.metadata),
            "bytes": self.nbytes,
        }

    @property
    def nbytes(self) -> int:
        """The size of all arrays together, in bytes."""
        return sum(r.nbytes for r in self._records.values() if isinstance(r, ArrayRecord))

    def spec(self, name: str) -> LeafSpec:
        """Dtype and shape of a leaf, without reading it."""
        return self.record(name).spec

    def canonical(self, name: str) -> str | None:
        """The name under which a leaf is listed, where a format knows it by several; or None."""
        return name if name in self._records else None

    def record(self, name: str) -> Record:
        """What the file says of a leaf.

        Raises:
            LeafNotFoundError: there is no such leaf; the message has the nearest names.
        """
        try:
            return self._records[name]
        except KeyError:
            message = _no_such_leaf(self.name, str(name), list(self._records))
            raise LeafNotFoundError(message) from None

    def read(self, name: str) -> Plain | Array:
        """The whole value of a leaf, checked.

        Raises:
            LeafNotFoundError: there is no such leaf.
            DamagedError: its bytes are not what was saved.
        """
        record = self.record(name)
        if isinstance(record, PlainRecord):
            return record.value
        return self.read_box(name, record, _whole(record))

    def read_all(self, names: Sequence[str]) -> list[Plain | Array]:
        """The whole value of each of these leaves, checked; large ones by several threads.

        Raises:
            LeafNotFoundError, DamagedError: as `read`.
        """
        records = [self.record(name) for name in names]
        results: list[Plain | Array] = [
            record.value if isinstance(record, PlainRecord) else None for record in records
        ]
        foreign, targets = [], []
        memory = NewArrays()
        for index, record in enumerate(records):
            if isinstance(record, ForeignArray):
                foreign.append(index)
            elif isinstance(record, ArrayRecord):
                array = memory.array(record.dtype, record.shape)
                results[index] = array
                targets.append((names[index], record, None, array))
        self._fill(targets)
        with Workers(_THREADS, "milepost-read") as workers:
            jobs = [(index, workers.submit(self.read, names[index])) for index in foreign]
            for index, job in jobs:
                results[index] = job.result()
        return results

    def is_checkable(self, name: str) -> bool:
        """Whether all bytes of an array have a checksum, so that `check` says if they are sound."""
        record = self.record(name)
        return (
            isinstance(record, ArrayRecord)
            and not isinstance(record, ForeignArray)
            and all(chunk.checksum is not None for chunk in record.chunks)
        )

    def check(self, names: Iterable[str]) -> None:
        """Read leaves that are checkable, keep nothing, and change nothing.

        Raises:
            LeafNotFoundError: there is no such leaf.
            DamagedError: the bytes of one are not what was saved.
        """
        records = [(name, self.record(name)) for name in names]
        self.fetch(
            Part(name, chunk, None)
            for name, record in records
            if isinstance(record, ArrayRecord)
            for chunk in record.chunks
        )

    def read_into(self, targets: Iterable[tuple[str, Array]]) -> None:
        """Read checkable leaves, and check them, into arrays of their dtype and shape.

        Raises:
            LeafNotFoundError: there is no such leaf.
            DamagedError: the bytes of one are not what was saved; some arrays have changed.
        """
        found = []
        for name, array in targets:
            record = self.record(name)
            assert isinstance(record, ArrayRecord)
            found.append((name, record, None, array))
        self._fill(found)

    def read_parts(self, name: str) -> Iterator[tuple[Box, Array]]:
        """A whole array, part after part in C order, in memory that does not grow with it."""
        record = self.record(name)
        if not isinstance(record, ArrayRecord):
            raise TypeError(f"leaf {name!r} is a plain value, not an array")
        itemsize = dtypes.memory_dtype(record.dtype).itemsize
        for offset, shape in chunk_boxes(record.shape, itemsize):
            box = tuple((start, start + size) for start, size in zip(offset, shape, strict=True))
            yield box, self.read_box(name, record, box)

    def dequantised(self) -> Snapshot:
        """The same, with what is stored in a quantised form as float32.

        Most formats have no such form: then it is this snapshot itself.
        """
        return self

    def read_box(self, name: str, record: ArrayRecord, box: Box) -> Array:
        """The part of an array inside `box`, a (start, stop) pair for each axis.

        Only what the box touches is read, where the format allows it.
        """
        if isinstance(record, ForeignArray):
            return record.read(box)
        at = record.chunks[0].position if record.chunks else 0
        result = new_array(record.dtype, [max(0, stop - start) for start, stop in box], at)
        self._fill([(name, record, box, result)], look=True)
        return result

    def _fill(
        self,
        targets: Sequence[tuple[str, ArrayRecord, Box | None, Array]],
        *,
        look: bool = False,
    ) -> None:
        """Fill each array with what lies inside the box of its leaf; without one, with all of it.

        Raises as `fetch`.
        """
        parts = []
        for name, record, box, array in targets:
            if _is_one_chunk(record, array) and array.flags.c_contiguous:  # most often
                parts.append(Part(name, record.chunks[0], dtypes.byte_view(array)))
                continue
            inside = _whole(record) if box is None else box
            for chunk in record.chunks:
                found = overlap(inside, chunk.offset, chunk.shape)
                if found is None:
                    continue
                part = array[as_index(found[0])]
                if part.shape == chunk.shape and part.flags.c_contiguous:
                    # The chunk lies in the array as it lies in the file: no copy between.
                    parts.append(Part(name, chunk, dtypes.byte_view(part)))
                    continue
                whole = np.empty(chunk.shape, array.dtype)
                self.fetch([Part(name, chunk, dtypes.byte_view(whole))], look=look)
                part[...] = whole[as_index(found[1])]
        self.fetch(parts, look=look)
        if sys.byteorder == "big":
            for *_, array in targets:
                array.byteswap(inplace=True)

    def fetch(self, parts: Iterable[Part], *, look: bool = False) -> None:
        """Read parts of its files, and check them; with `look`, as who reads a little of them."""
        files = [Look(file) for file in self._files] if look else self._files
        reading.fetch(files, parts)

    def damage(self) -> Iterator[Damage]:
        """Every leaf whose bytes do not have their digest. Reads everything."""
        sound: set[tuple[int, int, int, str]] = set()
        for name, record in self._records.items():
            if isinstance(record, PlainRecord):
                continue
            if isinstance(record, ForeignArray):
                yield from self._unreadable(name)
            for chunk in record.chunks:
                if chunk.digest is None:
                    continue
                place = (chunk.file, chunk.position, chunk.stored_bytes, chunk.digest)
                if place in sound:
                    continue
                file = self._files[chunk.file]
                try:
                    data = self._raw(chunk)
                except (MilepostError, OSError) as error:
                    yield Damage(file.name, name, str(error))
                    continue
                checks = [value for value in (chunk.checksum, chunk.digest) if value is not None]
                wrong = [value for value in checks if not digest.matches(value, data)]
                if wrong:
                    yield Damage(
                        file.name,
                        name,
                        f"bytes {chunk.position} to {chunk.position + chunk.nbytes} are damaged: "
                        f"expected {wrong[0]}",
                    )
                else:
                    sound.add(place)

    def _raw(self, chunk: Chunk) -> bytearray:
        """The raw bytes of a chunk, unchecked where they lie in the file as they are."""
        data = bytearray(chunk.nbytes)
        if chunk.is_encoded:
            decoding.decode_into(self._files, chunk, memoryview(data))
        else:
            fill_exactly(self._files[chunk.file], chunk.position, memoryview(data))
        return data

    def _unreadable(self, name: str) -> Iterator[Damage]:
        """What is wrong with an array that its format checks while it reads."""
        try:
            for _ in self.read_parts(name):
                pass
        except (MilepostError, OSError) as error:
            yield Damage(self.name, name, str(error))


def _whole(record: ArrayRecord) -> Box:
    return tuple((0, size) for size in record.shape)


def _is_one_chunk(record: ArrayRecord, box: Array) -> bool:
    return len(record.chunks) == 1 and record.chunks[0].shape == box.shape


def _no_such_leaf(snapshot: str, name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    below = [other for other in names if other.startswith(name.rstrip("/") + "/")][:3]
    hint = ", ".join(map(repr, below or near)) or f"{len(names)} leaves of other names"
    return f"{snapshot} has no leaf {name!r}; it has {hint}"


@contextlib.contextmanager
def closing_on_error(files: Sequence[ByteSource | Snapshot]) -> Iterator[None]:
    """Close the files, or snapshots, if the block that does something with them fails."""
    try:
        yield
    except BaseException:
        for file in files:
            file.close()
        raise
