"""The description of an ONNX model, as plain data: its tensors, without their bytes.

https://github.com/onnx/onnx/blob/main/onnx/onnx.proto has the numbers of the fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from milepost.encodings.pages import Pages
from milepost.encodings.protobuf import Span, walk
from milepost.errors import DamagedError
from milepost.formats.names import MAX_NAME_BYTES, Unique, leaf_name, text

_MAX_DEPTH = 30  # of graphs inside graphs
# A node is read whole to see whether there is more to it, unless it is as long as a weight.
_MAX_NODE = 1 << 14
_CONSTANT = "Constant"
# How a constant says what it is; and an attribute that has a graph, or several, which from IR
# version 3 on each has to.
_MARKS = (b"\x22\x08Constant", b"\xa0\x01\x05", b"\xa0\x01\x0a")
# What is shown of a model's inputs, outputs, operator sets and properties.
_MOST_SHOWN, _LONGEST_SHOWN = 256, 200
# More than any model has that is known. Graphs in nodes, whose names are in those of all their
# tensors, make a short file's names long.
_MAX_TENSORS, _MAX_NAMES_BYTES = 50_000, 32 << 20

# ModelProto
GRAPH = 7
_IR, _PRODUCER, _PRODUCER_VERSION, _DOMAIN, _MODEL_VERSION, _DOC = range(1, 7)
_OPSET, _PROPERTY, _TRAINING, _FUNCTION, _CONFIGURATION = 8, 14, 20, 25, 26
NUMBERS = {_IR, _MODEL_VERSION}
MESSAGES = {_PRODUCER, _PRODUCER_VERSION, _DOMAIN, _DOC, GRAPH, _OPSET, _PROPERTY}
MESSAGES |= {_TRAINING, _FUNCTION, _CONFIGURATION}
# GraphProto
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _SPARSE = 1, 5, 11, 12, 15
# NodeProto and AttributeProto
_NODE_OUTPUT, _NODE_NAME, _OPERATOR, _ATTRIBUTE = 2, 3, 4, 5
_VALUE, _INNER_GRAPH, _INNER_GRAPHS, _SPARSE_VALUE = 5, 6, 11, 22
# TensorProto: its sizes may be packed. Each field of values serves several types.
_DIMS, _TYPE, _SEGMENT, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 3, 8, 9, 13, 14
FLOATS, INT32S, STRINGS, INT64S, DOUBLES, UINT64S = 4, 5, 6, 7, 10, 11
_VALUES = {FLOATS, INT32S, STRINGS, INT64S, DOUBLES, UINT64S}

Value: TypeAlias = int | Span


@dataclass(slots=True)
class Tensor:
    """A tensor as the file describes it; nothing of it is checked, only its name is known."""

    name: str = ""
    dims: list[int] = field(default_factory=list)
    type: int = 0
    raw: Span | None = None
    values: dict[int, list[Value]] = field(default_factory=dict)  # by the number of their field
    external: dict[str, str] | None = None


@dataclass(slots=True)
class Model:
    """What an ONNX file holds, beside its nodes."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    sparse: dict[str, list[int]] = field(default_factory=dict)  # the shapes of sparse ones
    about: dict[str, Any] = field(default_factory=dict)


def parse(pages: Pages) -> Model:
    """The model in a file.

    Raises:
        DamagedError: it is none.
    """
    try:
        return _Parser(pages).model()
    except ValueError as error:
        raise DamagedError(f"{pages.source.name} is no valid ONNX file: {error}") from None


class _Parser:
    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._file = pages.source.name
        self._result = Model()
        self._unique = Unique()
        self._names_left = _MAX_NAMES_BYTES

    def model(self) -> Model:
        about: dict[str, Any] = {"ir_version": 0, "producer": "", "opsets": {}, "properties": {}}
        graphs = []
        for number, value in walk(self._pages, Span(0, self._pages.size)):
            if number == _IR and isinstance(value, int):
                about["ir_version"] = _signed(value)
            elif not isinstance(value, Span):
                continue
            elif number == GRAPH:
                graphs.append(value)
            elif number in (_PRODUCER, _PRODUCER_VERSION):
                about["producer"] = f"{about['producer']} {self._text(value)}".strip()
            elif number == _DOC and value.length:
                about["description"] = self._text(value)
            elif number == _OPSET and len(about["opsets"]) < _MOST_SHOWN:
                domain, version = self._pair(value)
                about["opsets"][domain or "ai.onnx"] = version
            elif number == _PROPERTY and len(about["properties"]) < _MOST_SHOWN:
                key, text = self._pair(value)
                about["properties"][str(key)] = text
        if len(graphs) != 1:
            raise ValueError(f"it has {len(graphs)} graphs, and a model has one")
        self._result.about = {**about, "inputs": [], "outputs": []}
        self._graph(graphs[0], "", 0)
        inputs = self._result.about["inputs"]
        # Before IR version 4 every initialiser was an input, too.
        inputs[:] = [item for item in inputs if item["name"] not in self._result.tensors]
        return self._result

    def _graph(self, graph: Span, prefix: str, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError(f"graphs in graphs, more than {_MAX_DEPTH} deep")
        nodes = 0
        for number, value in walk(self._pages, graph):
            if not isinstance(value, Span):
                continue
            if number == _INITIALIZER:
                tensor = self._tensor(value)
                self._add(self._name(prefix, tensor.name.encode()), tensor)
            elif number == _SPARSE:
                self._sparse(value, prefix)
            elif number == _NODE:
                nodes += 1
                self._node(value, prefix, nodes, depth)
            elif number in (_INPUT, _OUTPUT) and not depth:
                shown = self._result.about["inputs" if number == _INPUT else "outputs"]
                if len(shown) < _MOST_SHOWN:
                    shown.append(self._signature(value))

    def _name(self, prefix: str, raw: bytes) -> str:
        self._names_left -= len(prefix) + len(raw)
        if self._names_left < 0:
            raise ValueError(f"names of more than {_MAX_NAMES_BYTES:,} bytes in all")
        return prefix + leaf_name(raw, self._file)

    def _add(self, name: str, tensor: Tensor) -> None:
        if name in self._result.tensors:
            raise ValueError(f"two tensors have the name {name!r:.200}")
        if len(self._result.tensors) == _MAX_TENSORS:
            raise ValueError(f"more than {_MAX_TENSORS:,} tensors")
        self._result.tensors[name] = tensor

    def _node(self, node: Span, prefix: str, index: int, depth: int) -> None:
        """A constant; or go on with a node's graphs: an `If`'s branches, the body of a `Loop`."""
        if node.length <= _MAX_NODE:
            data = self._pages.read(*node)
            if not any(mark in data for mark in _MARKS):
                return
        name, operator, output, attributes = "", "", b"", []
        for number, value in walk(self._pages, node):
            if not isinstance(value, Span):
                continue
            if number == _NODE_NAME:
                name = self._text(value)
            elif number == _OPERATOR:
                operator = self._text(value)
            elif number == _NODE_OUTPUT:
                output = output or self._pages.read(*self._short(value))
            elif number == _ATTRIBUTE:
                attributes.append(value)
        if operator == _CONSTANT:
            for attribute in attributes if output else ():
                self._constant(self._name(prefix, output), attribute)
            return
        label = ""
        for attribute in attributes:
            attribute_name, graphs = self._graphs(attribute)
            if graphs and not label:
                label = self._unique(self._name(prefix, (name or f"{operator}_{index}").encode()))
            for place, graph in enumerate(graphs):
                last = f"{attribute_name}_{place}" if len(graphs) > 1 else attribute_name
                inner = self._name(f"{label}/", f"{last}/".encode())
                self._graph(graph, self._unique(inner), depth + 1)

    def _constant(self, name: str, attribute: Span) -> None:
        """The tensor in a constant. Some exporters, Paddle's for one, keep all weights in those."""
        for number, value in walk(self._pages, attribute):
            if isinstance(value, Span) and number == _VALUE:
                self._add(name, self._tensor(value))
            elif isinstance(value, Span) and number == _SPARSE_VALUE:
                self._sparse(value, "", name)

    def _graphs(self, attribute: Span) -> tuple[str, list[Span]]:
        name, graphs = "", []
        for number, value in walk(self._pages, attribute):
            if isinstance(value, Span) and number == 1:
                name = self._text(value)
            elif isinstance(value, Span) and number in (_INNER_GRAPH, _INNER_GRAPHS):
                graphs.append(value)
        return name, graphs

    def _sparse(self, message: Span, prefix: str, name: str = "") -> None:
        """Two tensors, under a name that is given, or that of the values."""
        parts: dict[int, Tensor] = {}
        dims: list[int] = []
        for number, value in walk(self._pages, message):
            if number in (1, 2) and isinstance(value, Span):
                parts[number] = self._tensor(value)
            elif number == 3:
                dims += self._integers(value)
        if parts.keys() != {1, 2}:
            raise ValueError("a sparse tensor without its values or its indices")
        name = name or self._name(prefix, parts[1].name.encode())
        self._result.sparse[name] = dims
        self._add(f"{name}/values", parts[1])
        self._add(f"{name}/indices", parts[2])

    def _tensor(self, message: Span) -> Tensor:
        tensor, external, is_external = Tensor(), dict[str, str](), False
        for number, value in walk(self._pages, message):
            if number == _DIMS:
                tensor.dims += self._integers(value)
            elif number == _TYPE and isinstance(value, int):
                tensor.type = value
            elif number == _LOCATION and isinstance(value, int):
                is_external = value == 1
            elif number == _NAME and isinstance(value, Span):
                tensor.name = self._pages.read(*self._short(value)).decode()
            elif number == _RAW and isinstance(value, Span):
                tensor.raw = value
            elif number == _EXTERNAL and isinstance(value, Span):
                key, text = self._pair(value)
                external[str(key)] = str(text)
            elif number == _SEGMENT:
                raise ValueError(f"{tensor.name!r} is in segments, which no tool reads")
            elif number in _VALUES:
                tensor.values.setdefault(number, []).append(value)
        tensor.external = external if is_external else None
        return tensor

    def _integers(self, value: Value) -> list[int]:
        """Numbers of a repeated field: one that stands alone, or some that are packed."""
        if isinstance(value, int):
            return [_signed(value)]
        return [_signed(n) for n in _varints(self._pages.read(*self._short(value)))]

    def _pair(self, message: Span) -> tuple[str, str | int]:
        """A key and its value: texts, or the version of an operator set."""
        found: dict[int, str | int] = {}
        for number, value in walk(self._pages, message):
            found[number] = _signed(value) if isinstance(value, int) else self._text(value)
        return str(found.get(1, "")), found.get(2, "")

    def _signature(self, message: Span) -> dict[str, Any]:
        """The name of an input or output, its type by number, and its shape."""
        name, kind, shape = "", 0, None
        for number, value in walk(self._pages, message):
            if number == 1 and isinstance(value, Span):
                name = self._text(value)
        tensor = self._inside(self._inside(message, 2), 1)  # of its type, that of a tensor
        for number, value in walk(self._pages, tensor or Span(0, 0)):
            if number == 1 and isinstance(value, int):
                kind = value
            elif number == 2 and isinstance(value, Span):
                shape = [self._size(d) for _, d in walk(self._pages, value)][:_MOST_SHOWN]
        return {"name": name, "type": kind, "shape": shape}

    def _inside(self, message: Span | None, wanted: int) -> Span | None:
        found = None
        for number, value in walk(self._pages, message or Span(0, 0)):
            if number == wanted and isinstance(value, Span):
                found = value
        return found

    def _size(self, dimension: Value) -> int | str | None:
        """A number, the name of one that is known later, or None."""
        result: int | str | None = None
        for number, value in walk(
            self._pages, dimension if isinstance(dimension, Span) else Span(0, 0)
        ):
            if number == 1 and isinstance(value, int):
                result = _signed(value)
            elif number == 2 and isinstance(value, Span):
                result = self._text(value, _LONGEST_SHOWN) or None
        return result

    def _text(self, value: Span, most: int = MAX_NAME_BYTES) -> str:
        return text(self._pages.read(value.position, min(value.length, most)))

    def _short(self, value: Span) -> Span:
        if value.length > MAX_NAME_BYTES:
            raise ValueError(f"a name or shape of {value.length:,} bytes")
        return value


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _varints(data: bytes) -> Iterator[int]:
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value & 0xFFFF_FFFF_FFFF_FFFF
            value = shift = 0
        elif shift >= 70:
            break
    if shift:
        raise ValueError("a number without an end")
