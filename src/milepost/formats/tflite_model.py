"""The description of a TFLite model, as plain data: its constant tensors, without their bytes.

https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs
has the order of the fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from milepost.dtypes import Array
from milepost.encodings.flatbuffers import Table, root
from milepost.encodings.pages import Pages
from milepost.errors import DamagedError, VersionError
from milepost.formats.names import MAX_NAME_BYTES, Unique, leaf_name, text
from milepost.limits import MAX_RANK

# More than any model has that is known.
_MAX_TABLES, _MAX_SUBGRAPHS, _MAX_CHANNELS = 1 << 16, 1 << 12, 1 << 22
_MOST_SHOWN = 256
# Model
_VERSION, _SUBGRAPHS, _DESCRIPTION, _BUFFERS, _METADATA = 0, 2, 3, 4, 6
# SubGraph
_TENSORS, _INPUTS, _OUTPUTS, _GRAPH_NAME = 0, 1, 2, 4
# Tensor
_SHAPE, _TYPE, _BUFFER, _NAME, _QUANTIZATION, _SPARSITY, _SIGNATURE, _EXTERNAL = (
    0,
    1,
    2,
    3,
    4,
    6,
    7,
    10,
)
# QuantizationParameters
_SCALE, _ZERO_POINT, _DETAILS, _AXIS = 2, 3, 4, 6
# Buffer
_DATA, _OFFSET, _SIZE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Quantization:
    """How integers stand for numbers: `(integer - zero_point) * scale`."""

    scales: Array  # one, or one for each index of `axis`
    zero_points: Array
    axis: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that has data, as the file describes it."""

    shape: list[int]
    type: int
    position: int
    nbytes: int
    quantization: Quantization | None
    sparse: bool


@dataclass(slots=True)
class Model:
    """What a TFLite file holds, beside its operators."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def parse(pages: Pages) -> Model:
    """The model in a file.

    Raises:
        DamagedError: it is none.
        VersionError: it keeps weights in other files.
    """
    file, table = pages.source.name, root(pages)
    buffers = [_buffer(pages, buffer) for buffer in table.tables(_BUFFERS, _MAX_TABLES)]
    graphs = list(table.tables(_SUBGRAPHS, _MAX_SUBGRAPHS))
    model = Model()
    model.about = {
        "version": table.number(_VERSION, "I"),
        "description": text(table.text(_DESCRIPTION, MAX_NAME_BYTES)),
        "subgraphs": len(graphs),
        "inputs": [],
        "outputs": [],
        "entries": [
            text(entry.text(0, MAX_NAME_BYTES)) for entry in table.tables(_METADATA, _MAX_TABLES)
        ][:_MOST_SHOWN],
    }
    unique, prefixes, left = Unique(), Unique(), _MAX_TABLES
    for number, graph in enumerate(graphs):
        prefix = ""
        if len(graphs) > 1:
            raw = graph.text(_GRAPH_NAME, MAX_NAME_BYTES) or b"subgraph_%d" % number
            prefix = prefixes(leaf_name(raw, file)) + "/"
        tensors = list(graph.tables(_TENSORS, left))
        left -= len(tensors)
        for index, tensor in enumerate(tensors):
            found = _tensor(tensor, buffers, file)
            if found is not None:
                raw = tensor.text(_NAME, MAX_NAME_BYTES) or b"tensor_%d" % index
                model.tensors[unique(prefix + leaf_name(raw, file))] = found
        if not number:
            for key, numbers in (("inputs", _INPUTS), ("outputs", _OUTPUTS)):
                chosen = graph.numbers(numbers, "i", _MAX_TABLES)[:_MOST_SHOWN].tolist()
                model.about[key] = [_signature(tensors[i]) for i in chosen if 0 <= i < len(tensors)]
    return model


def _buffer(pages: Pages, buffer: Table) -> tuple[int, int]:
    """Where the bytes of a buffer lie, and how many: behind the tables, in a file above 2 GB."""
    offset, size = buffer.number(_OFFSET, "Q"), buffer.number(_SIZE, "Q")
    if offset > 1:  # 1 is a place that a writer has left to be filled in
        if offset + size > pages.size:
            raise DamagedError(
                f"{pages.source.name} is damaged: a buffer of {size} bytes at {offset}, of "
                f"{pages.size} in all"
            )
        return offset, size
    return buffer.vector(_DATA, 1)


def _tensor(tensor: Table, buffers: list[tuple[int, int]], file: str) -> Tensor | None:
    """A tensor, if it has data: others are computed when the model runs."""
    if tensor.number(_EXTERNAL, "I"):
        raise VersionError(f"{file} keeps weights in other files, which is unknown here")
    number = tensor.number(_BUFFER, "I")
    if number >= max(1, len(buffers)):
        raise DamagedError(f"{file} is damaged: it has no buffer {number}")
    # The first buffer is empty, for all that have no data.
    position, nbytes = buffers[number] if number else (0, 0)
    if not nbytes:
        return None
    return Tensor(
        _shape(tensor, _SHAPE),
        tensor.number(_TYPE, "b"),
        position,
        nbytes,
        _quantization(tensor.table(_QUANTIZATION)),
        tensor.has(_SPARSITY),
    )


def _quantization(table: Table | None) -> Quantization | None:
    if table is None or table.number(_DETAILS, "B"):
        return None
    scales = table.numbers(_SCALE, "f", _MAX_CHANNELS)
    zero_points = table.numbers(_ZERO_POINT, "q", _MAX_CHANNELS)
    if not len(scales):
        return None
    points = zero_points if len(zero_points) else np.zeros(1, np.int64)
    return Quantization(scales, points, table.number(_AXIS, "i"))


def _shape(tensor: Table, field: int) -> list[int]:
    return [int(n) for n in tensor.numbers(field, "i", MAX_RANK)]


def _signature(tensor: Table) -> dict[str, Any]:
    shape = _shape(tensor, _SIGNATURE) or _shape(tensor, _SHAPE)
    return {
        "name": text(tensor.text(_NAME, MAX_NAME_BYTES)),
        "type": tensor.number(_TYPE, "b"),
        "shape": [None if n < 0 else n for n in shape],
    }
