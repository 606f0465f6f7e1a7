"""Safetensors files: milepost's own model files and packs, and anybody else's."""

from __future__ import annotations

import math
from typing import Any

from milepost import container, dtypes
from milepost.chunk import Chunk
from milepost.container import Header, TensorEntry
from milepost.formats import model_file
from milepost.formats.model_file import Part
from milepost.formats.place import Place
from milepost.record import ArrayRecord, chunk_boxes
from milepost.snapshot import Description, Snapshot, closing_on_error
from milepost.source import ByteSource
from milepost.state import ObjectInfo


def recognises(place: Place) -> bool:
    """A plausible header length, then JSON."""
    length = int.from_bytes(place.start[:8], "little")
    return place.start[8:9] == b"{" and length < 1 << 40


def open_place(place: Place) -> Snapshot:
    """The snapshot in a safetensors file; raises what `open_source` does."""
    source = place.open()
    with closing_on_error([source]):
        return open_source(source)


def open_source(source: ByteSource) -> Snapshot:
    """The snapshot in a safetensors file.

    Raises:
        DamagedError: it is not valid.
        VersionError: a newer milepost wrote it.
    """
    header = container.read_header(source)
    if is_model(header):
        return ModelSnapshot((header, source))
    records = {name: plain_record(entry) for name, entry in header.tensors.items()}
    return Snapshot(source.name, records, [source], Description("safetensors", header.metadata))


def is_model(header: Header) -> bool:
    """Whether the document of a model file is in this one."""
    return f'"{model_file.KIND}":' in header.metadata.get(model_file.KEY, "")[:160]


class ModelSnapshot(Snapshot):
    """A model: its leaves, and the document that tells how to rebuild it.

    It lies in one file, or in several, the one with the document first. `name` is what
    messages call it, if it is not the name of the file.
    """

    def __init__(self, *parts: Part, name: str | None = None) -> None:
        self.document = model_file.decode(*parts)
        files = [source for _, source in parts]
        info = ObjectInfo(self.document.framework)
        description = Description("milepost model", self.document.metadata, {"": info})
        super().__init__(name or files[0].name, self.document.records, files, description)

    def facts(self) -> dict[str, Any]:
        document = self.document
        return {
            "format": self.description.format,
            "framework": document.framework,
            "needs": list(document.structure.get("needs", ())),
            **document.about,
            **document.signature,
            "example": document.example is not None,
            "program": document.program.kind if document.program else "",
            "lost": list(document.lost),
            "metadata": dict(self.metadata),
            "versions": dict(document.versions),
            "bytes": self.nbytes,
        }


def plain_record(entry: TensorEntry, file: int = 0) -> ArrayRecord:
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
        chunks.append(Chunk(offset, shape, None, None, file, position, nbytes))
        position += nbytes
    return ArrayRecord(dtype, whole, tuple(chunks))
