"""ONNX models: the initialisers and constants of their graphs, of graphs in nodes, too.

A tensor in the branch of an `If`, or the body of a `Loop`, is named by the node, the attribute
and itself: `decide/then_branch/weight`. Of a sparse one there are `weight/values` and
`weight/indices`. The tensor of a `Constant` has the name of the node's output. Functions, and
numbers that are other attributes of nodes, are part of the program.
"""

from __future__ import annotations

from typing import Any

from milepost.encodings.pages import Pages
from milepost.encodings.protobuf import Span, walk
from milepost.errors import DamagedError
from milepost.formats.onnx_external import ExternalFiles
from milepost.formats.onnx_graph import GRAPH, MESSAGES, NUMBERS, STRINGS, Model, parse
from milepost.formats.onnx_tensors import TYPES, record
from milepost.formats.place import Place
from milepost.snapshot import Description, Snapshot, closing_on_error

# The first fields of a graph that a writer may begin with, each with bytes: nodes, its name,
# initialisers, inputs, ...
_GRAPH_STARTS = {number << 3 | 2 for number in (1, 2, 5, 10, 11, 12, 13, 14, 15)}
# Of what may stand before the graph: operator sets, properties, functions.
_MAX_FIELDS = 1000
_MAX_SCALAR_BYTES = 16 << 20


def recognises(place: Place) -> bool:
    """ONNX has no magic bytes: a version, then fields as a model has them, a graph among them."""
    # TensorFlow's saved_model.pb begins like this, too, and has no field 7.
    if place.start[:1] != b"\x08":
        return False
    source = place.open()
    try:
        return _has_graph(Pages(source))
    except (DamagedError, ValueError):
        return False
    finally:
        source.close()


def _has_graph(pages: Pages) -> bool:
    """Whether a graph comes next, behind nothing but what a model may have.

    A file that is cut short has one that should be longer: then it is still a model, damaged.
    """
    fields = walk(pages, Span(0, pages.size), cut=True)
    for (number, value), _ in zip(fields, range(_MAX_FIELDS), strict=False):
        if number not in (NUMBERS if isinstance(value, int) else MESSAGES):
            return False
        if number == GRAPH and isinstance(value, Span):
            return not value.length or pages.read(value.position, 1)[0] in _GRAPH_STARTS
    return False


def open_place(place: Place) -> Snapshot:
    """The snapshot in an ONNX file, and in the files beside it that it names.

    Raises:
        DamagedError: it is not valid, or a file is not there.
        UntrustedError: it names a file that is not in its folder.
        VersionError: it has tensors of a type that is unknown here.
    """
    source = place.open()
    with closing_on_error([source]):
        model = parse(Pages(source))
        _check_scalars(source.name, model)
        others = ExternalFiles(source)
        records = {
            name: record(name, tensor, source, others) for name, tensor in model.tensors.items()
        }
        description = Description("ONNX", _metadata(model))
        return ONNXSnapshot(source.name, records, others.sources, description)


def _check_scalars(file: str, model: Model) -> None:
    """Strings that are no arrays are read at once: all together they must be short."""
    texts = [
        value
        for tensor in model.tensors.values()
        if not tensor.dims
        for value in tensor.values.get(STRINGS, ())
    ]
    if sum(value.length for value in texts if isinstance(value, Span)) > _MAX_SCALAR_BYTES:
        raise DamagedError(f"{file} has strings that are too long")


class ONNXSnapshot(Snapshot):
    """The tensors of an ONNX model."""

    def facts(self) -> dict[str, Any]:
        return {"format": self.description.format, **self.metadata, "bytes": self.nbytes}


def _metadata(model: Model) -> dict[str, Any]:
    about = dict(model.about)
    for key in ("inputs", "outputs"):
        about[key] = [
            {"name": item["name"], "dtype": _type_name(item["type"]), "shape": item["shape"]}
            for item in about[key]
        ]
    return {**about, "sparse": model.sparse} if model.sparse else about


def _type_name(number: int) -> str:
    """Zero is no tensor: a sequence, a map, ..."""
    return TYPES[number].dtype if number in TYPES else f"type {number}" if number else "no tensor"
