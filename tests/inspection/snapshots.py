"""Snapshots of arrays in memory, without a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from milepost import digest, dtypes
from milepost.chunk import Chunk
from milepost.record import ArrayRecord, ForeignArray, PlainRecord, chunk_boxes
from milepost.snapshot import Description, Snapshot


class Memory:
    """The bytes of a file, which counts how many are read."""

    def __init__(self, data: bytes) -> None:
        self.name, self.size, self.data = "memory", len(data), data
        self.read = 0

    def read_into(self, offset: int, buffer: memoryview) -> int:
        part = self.data[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        self.read += len(part)
        return len(part)

    def close(self) -> None:
        """There is nothing to let go of."""


def in_memory(
    leaves: Mapping[str, Any], name: str = "memory", *, digests: bool = False
) -> tuple[Snapshot, Memory]:
    """A snapshot whose arrays lie in one file, with the digests of a store's or with none."""
    records: dict[str, Any] = {}
    data = bytearray()
    for leaf, value in leaves.items():
        if not isinstance(value, np.ndarray):
            records[leaf] = PlainRecord(value)
        elif value.dtype.hasobject:
            records[leaf] = ForeignArray("string", value.shape, (), _reader(value))
        else:
            records[leaf] = _record(value, data, digests)
    memory = Memory(bytes(data))
    return Snapshot(name, records, [memory], Description("memory")), memory


def _record(value: np.ndarray, data: bytearray, digests: bool) -> ArrayRecord:
    chunks = []
    for offset, shape in chunk_boxes(value.shape, value.itemsize):
        box = tuple(slice(start, start + size) for start, size in zip(offset, shape, strict=True))
        raw = dtypes.to_stored(value[box]).tobytes()
        known = digest.digest(raw) if digests else None
        chunks.append(Chunk(offset, shape, known, None, 0, len(data), len(raw)))
        data += raw
    return ArrayRecord(dtypes.dtype_name(value.dtype), value.shape, tuple(chunks))


def _reader(value: np.ndarray):
    def read(box):
        return value[tuple(slice(*pair) for pair in box)].copy()

    return read
