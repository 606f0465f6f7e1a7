"""Snapshots: states in storage, read-only and lazy, whatever their file format.

Names, dtypes and shapes are there at once; bytes are read only when asked for, and every
chunk that is read is checked against its checksum.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from milepost import digest, dtypes
from milepost.buffers import aligned
from milepost.dtypes import Array
from milepost.errors import DamagedError, LeafNotFoundError, MilepostError
from milepost.record import (
    ArrayRecord,
    Box,
    Chunk,
    ForeignArray,
    PlainRecord,
    Record,
    as_index,
    chunk_boxes,
    overlap,
)
from milepost.source import ByteSource, fill_exactly
from milepost.state import LeafSpec, ObjectInfo, Plain

# Below this size starting threads costs more than they save.
_THREADED_BYTES = 1 << 22
_THREADS = 2  # each copies out of the page cache as fast as a core can


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
        whole = tuple((0, size) for size in record.shape)
        return self.read_box(name, record, whole)

    def read_all(self, names: Sequence[str]) -> list[Plain | Array]:
        """The whole value of each of these leaves, checked; large ones by several threads.

        Raises:
            LeafNotFoundError, DamagedError: as `read`, of the first that fails.
        """
        records = [self.record(name) for name in names]
        if sum(r.nbytes for r in records if isinstance(r, ArrayRecord)) < _THREADED_BYTES:
            return [self.read(name) for name in names]
        with ThreadPoolExecutor(_THREADS, "milepost-read") as pool:
            jobs = [pool.submit(self.read, name) for name in names]
            try:
                return [job.result() for job in jobs]
            finally:
                pool.shutdown(cancel_futures=True)

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
        dtype = dtypes.numpy_dtype(record.dtype)
        shape = [max(0, stop - start) for start, stop in box]
        memory = aligned(math.prod(shape) * dtype.itemsize)
        result = memory.view(dtype).reshape(shape)
        for chunk in record.chunks:
            found = overlap(box, chunk.offset, chunk.shape)
            if found is None:
                continue
            part = result[as_index(found[0])]
            if part.shape == chunk.shape and part.flags.c_contiguous:
                # The chunk lies in the result as it lies in the file: no copy between.
                self._fill(name, chunk, part)
            else:
                whole = np.empty(chunk.shape, dtype)
                self._fill(name, chunk, whole)
                part[...] = whole[as_index(found[1])]
        return result

    def _fill(self, name: str, chunk: Chunk, target: Array) -> None:
        file = self._files[chunk.file]
        buffer = dtypes.byte_view(target)
        fill_exactly(file, chunk.position, buffer)
        if chunk.checksum is not None and not digest.matches(chunk.checksum, buffer):
            raise DamagedError(
                f"{file.name}, leaf {name!r}: bytes {chunk.position} to "
                f"{chunk.position + chunk.nbytes} are damaged: expected {chunk.checksum}, "
                f"found {digest.checksum(buffer)}"
            )
        if sys.byteorder == "big":
            target.byteswap(inplace=True)

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
                place = (chunk.file, chunk.position, chunk.nbytes, chunk.digest)
                if place in sound:
                    continue
                file = self._files[chunk.file]
                data = bytearray(chunk.nbytes)
                try:
                    fill_exactly(file, chunk.position, memoryview(data))
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

    def _unreadable(self, name: str) -> Iterator[Damage]:
        """What is wrong with an array that its format checks while it reads."""
        try:
            for _ in self.read_parts(name):
                pass
        except (MilepostError, OSError) as error:
            yield Damage(self.name, name, str(error))


class LazyArray(NDArrayOperatorsMixin):
    """An array in storage. `array[:10]` reads those rows, `numpy.asarray(array)` all of it.

    Arithmetic and NumPy's functions read it whole; keep the result if it is used again.
    """

    def __init__(self, snapshot: Snapshot, name: str, record: ArrayRecord) -> None:
        self._snapshot = snapshot
        self._name = name
        self._record = record

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its dtype in NumPy; bfloat16 and its like are ml_dtypes'."""
        return dtypes.memory_dtype(self._record.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self._record.shape

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return len(self._record.shape)

    @property
    def size(self) -> int:
        """The number of its elements."""
        return int(np.prod(self._record.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Its size in bytes, once it is read."""
        return self._record.nbytes

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a zero-dimensional array has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<LazyArray {self._name}: {self._record.spec}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("an array in storage cannot be had without a copy")
        whole = self._snapshot.read(self._name)
        return np.asarray(whole, dtype=dtype)

    def __bool__(self) -> bool:
        return bool(np.asarray(self))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if any(isinstance(out, LazyArray) for out in kwargs.get("out", ())):
            raise TypeError("an array in storage is read-only: `x = x + 1` makes a new one")
        loaded = [_loaded(value) for value in inputs]
        return getattr(ufunc, method)(*loaded, **{k: _loaded(v) for k, v in kwargs.items()})

    def __getitem__(self, index: Any) -> Any:
        """NumPy indexing. Integers and slices read only the chunks that they touch."""
        parts = index if isinstance(index, tuple) else (index,)
        box, local = [], []
        if len(parts) > self.ndim or not all(map(_is_simple, parts)):
            return np.asarray(self)[index]
        for axis, size in enumerate(self.shape):
            part = parts[axis] if axis < len(parts) else slice(None)
            start, stop, inside = _axis_box(part, size, axis)
            box.append((start, stop))
            local.append(inside)
        return self._snapshot.read_box(self._name, self._record, tuple(box))[tuple(local)]


def _loaded(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, LazyArray) else value


def _is_simple(part: Any) -> bool:
    """Whether an index is a number or a slice; True is a mask to NumPy, and no number."""
    return isinstance(part, int | slice | np.integer) and not isinstance(part, bool)


def _axis_box(part: int | slice, size: int, axis: int) -> tuple[int, int, int | slice]:
    """The (start, stop) that an index needs of an axis, and the index inside of that."""
    if isinstance(part, slice):
        chosen = range(size)[part]
        if not chosen:
            return 0, 0, slice(0, 0)
        low, high = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1])
        return low, high + 1, slice(None, None, chosen.step)
    position = int(part) + size if part < 0 else int(part)
    if not 0 <= position < size:
        raise IndexError(f"index {part} is out of bounds for axis {axis} with size {size}")
    return position, position + 1, 0


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
