"""What is converted: arrays that are read part by part when they are written, and plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from milepost import dtypes
from milepost.chunk import Shape
from milepost.dtypes import Array
from milepost.errors import DamagedError
from milepost.record import ArrayRecord, Box, ForeignArray
from milepost.snapshot import Description, Snapshot
from milepost.state import LeafSpec, Plain
from milepost.store import CheckpointSnapshot

# The whole array as parts that follow one another in C order, each with the box that it fills.
Parts: TypeAlias = Callable[[], Iterator[tuple[Box, Array]]]


@dataclass(frozen=True, slots=True)
class Tensor:
    """An array on its way from one file to another.

    Attributes:
        parts: reads it, from the start, each time that it is called.
        kind: what the source calls its type, if it is quantised and was left so.
        place: where its bytes lie in the source; arrays of one place are one array.
    """

    name: str
    dtype: str
    shape: Shape
    parts: Parts
    kind: str = ""
    place: object = None

    @property
    def spec(self) -> LeafSpec:
        return LeafSpec(self.dtype, self.shape)

    @property
    def itemsize(self) -> int:
        return dtypes.memory_dtype(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.itemsize

    def data(self) -> Iterator[memoryview]:
        """Its bytes: little-endian, in C order.

        Raises:
            DamagedError: there are not as many as its shape says.
        """
        count = 0
        for _, part in self.parts():
            view = dtypes.byte_view(dtypes.to_stored(part))
            count += len(view)
            yield view
        if count != self.nbytes:
            raise DamagedError(f"leaf {self.name!r} has {count} bytes, expected {self.nbytes}")

    def whole(self) -> Array:
        """All of it, in memory."""
        result = np.empty(math.prod(self.shape), dtypes.memory_dtype(self.dtype))
        position = 0
        for _, part in self.parts():
            result[position : position + part.size] = part.reshape(-1)
            position += part.size
        return result.reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Content:
    """The leaves of a file, under the names that they will have in the other one."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Plain]
    description: Description = field(default_factory=lambda: Description(""))
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def names(self) -> list[str]:
        return [*self.tensors, *self.values]

    def renamed(self, names: Mapping[str, str]) -> Content:
        """Only the leaves that are keys of `names`, called as it says, in its order."""
        tensors = {
            new: replace(self.tensors[old], name=new)
            for old, new in names.items()
            if old in self.tensors
        }
        values = {new: self.values[old] for old, new in names.items() if old in self.values}
        is_same = set(self.names) == names.keys() and all(o == n for o, n in names.items())
        # How the leaves nest is told by their names of then.
        objects = self.description.objects if is_same else {}
        description = replace(self.description, objects=objects)
        return replace(self, tensors=tensors, values=values, description=description)


def content_of(snapshot: Snapshot) -> Content:
    """All of a snapshot. Its arrays are read from it while it is open."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Plain] = {}
    for name in snapshot:
        record = snapshot.record(name)
        if isinstance(record, ArrayRecord):
            tensors[name] = _tensor(snapshot, name, record)
        else:
            values[name] = record.value
    description, metrics = snapshot.description, {}
    if isinstance(snapshot, CheckpointSnapshot):
        metrics = dict(snapshot.metrics)
    else:
        description = replace(description, objects={})
    return Content(tensors, values, description, metrics)


def _tensor(snapshot: Snapshot, name: str, record: ArrayRecord) -> Tensor:
    def parts() -> Iterator[tuple[Box, Array]]:
        return snapshot.read_parts(name)

    # Only raw bytes have a type that is not theirs: a quantised array as it lies in the file.
    packed = isinstance(record, ForeignArray) and record.dtype == "uint8"
    kind = record.kind if isinstance(record, ForeignArray) and packed else ""
    place = (record.dtype, record.shape, record.chunks) if record.chunks else None
    return Tensor(name, record.dtype, record.shape, parts, kind, place)


def check(snapshot: Snapshot) -> None:
    """Raise DamagedError for what reading the arrays would not notice.

    A format that looks for damage in its own way has checksums that a read by parts cannot
    compare, those of an archive's members; every other one checks what it reads.
    """
    if type(snapshot).damage is not Snapshot.damage:
        for damage in snapshot.damage():
            raise DamagedError(str(damage))
