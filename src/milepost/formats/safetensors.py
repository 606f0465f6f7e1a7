"""Safetensors files: milepost's own model files and packs, and anybody else's."""

from __future__ import annotations

import math
from typing import Any

from milepost import container, dtypes
from milepost.container import Header, TensorEntry
from milepost.formats import model_file
from milepost.record import ArrayRecord, Chunk, chunk_boxes
from milepost.snapshot import Description, Snapshot
from milepost.source import ByteSource
from milepost.state import ObjectInfo


def recognises(start: bytes) -> bool:
    """Whether a file that begins so is one: a plausible header length, then JSON."""
    length = int.from_bytes(start[:8], "little")
    return len(start) < 9 or (start[8:9] == b"{" and length < 1 << 40)


def open_source(source: ByteSource) -> Snapshot:
    """The snapshot in a safetensors file.

    Raises:
        DamagedError: it is not valid.
        VersionError: a newer milepost wrote it.
    """
    header = container.read_header(source)
    if f'"{model_file.KIND}":' in header.metadata.get(model_file.KEY, "")[:160]:
        return ModelSnapshot(header, source)
    records = {name: _record(entry) for name, entry in header.tensors.items()}
    return Snapshot(source.name, records, [source], Description("safetensors", header.metadata))


class ModelSnapshot(Snapshot):
    """A model file: its leaves, and the document that tells how to rebuild the model."""

    def __init__(self, header: Header, source: ByteSource) -> None:
        self.document = model_file.decode(header, source)
        self.header = header
        info = ObjectInfo(self.document.framework)
        description = Description("milepost model", self.document.metadata, {"": info})
        super().__init__(source.name, self.document.records, [source], description)

    def facts(self) -> dict[str, Any]:
        return {
            "format": self.description.format,
            "framework": self.document.framework,
            "needs": list(self.document.structure.get("needs", ())),
            "metadata": dict(self.metadata),
            "versions": dict(self.document.versions),
            "bytes": self.nbytes,
        }


def _record(entry: TensorEntry) -> ArrayRecord:
    """A tensor without digests, in chunks so that a slice need not read all of it.

    Elements of less than a byte, which NumPy does not have, come packed as they lie: as bytes.
    """
    packed = entry.code not in dtypes.CODE_NAMES
    dtype = "uint8" if packed else dtypes.CODE_NAMES[entry.code]
    whole = (entry.nbytes,) if packed else entry.shape
    itemsize = dtypes.numpy_dtype(dtype).itemsize
    chunks, position = [], entry.offset
    for offset, shape in chunk_boxes(whole, itemsize):
        nbytes = math.prod(shape) * itemsize
        chunks.append(Chunk(offset, shape, None, None, 0, position, nbytes))
        position += nbytes
    return ArrayRecord(dtype, whole, tuple(chunks))
