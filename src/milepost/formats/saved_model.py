"""SavedModel folders of TensorFlow: their variables, and what their signatures take and give.

    saved_model.pb      the programs, which are not interpreted, and their signatures
    variables/          a checkpoint, if there are any variables
    assets/             files that the programs read

https://www.tensorflow.org/guide/saved_model
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/protobuf/meta_graph.proto
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, TypeAlias

from milepost.encodings.pages import Pages
from milepost.encodings.protobuf import Span, walk
from milepost.errors import DamagedError
from milepost.formats import tensorflow_checkpoint
from milepost.formats.names import text
from milepost.formats.place import Place
from milepost.formats.tensorflow_bundle import integer, shape
from milepost.formats.tensorflow_records import DTYPES, UNREADABLE, open_beside
from milepost.snapshot import Description, Snapshot
from milepost.source import ByteSource

_PROGRAM, _VARIABLES, _INDEX = "saved_model.pb", "variables", "variables.index"
_ASSETS = "assets"
_FORMAT = "TensorFlow SavedModel"
# Of signatures, of what each takes and gives, of tags and of assets: more are not told of.
_MOST, _LONGEST_TEXT = 1000, 200
_MOST_READS = 200_000
_MAX_SHAPE_BYTES = 4096

# The walk of a message: a field's number, and its number or where it lies.
Field: TypeAlias = tuple[int, int | Span]


def recognises(place: Place) -> bool:
    """A folder with the programs of a SavedModel in it."""
    return place.is_folder and _PROGRAM in place.names


def open_place(place: Place) -> Snapshot:
    """The snapshot of the variables of a SavedModel.

    Raises:
        DamagedError: it is not valid.
        UntrustedError, UnknownFormatError, VersionError, MissingPackageError: as a checkpoint.
    """
    told = _read_program(place.beside(_PROGRAM))
    told["assets"] = _names_in(place.beside(_ASSETS)) if _ASSETS in place.names else []
    folder = place.beside(_VARIABLES)
    if _VARIABLES not in place.names or _INDEX not in _names_in(folder):
        return Snapshot(place.path, {}, [], Description(_FORMAT, told))
    source = open_beside(os.path.join(folder, _INDEX), place.path)
    found = tensorflow_checkpoint.open_index(source, place.path)
    told["unreadable"] = found.metadata["unreadable"]
    found.description = Description(_FORMAT, told)
    return found


def _names_in(folder: str) -> list[str]:
    """What a folder holds; nothing, if it is none."""
    return sorted(os.listdir(folder))[:_MOST] if os.path.isdir(folder) else []


def _read_program(path: str) -> dict[str, Any]:
    source = open_beside(path)
    try:
        return _described(source)
    except ValueError as error:
        raise DamagedError(f"{path} is no valid SavedModel: {error}") from None
    finally:
        source.close()


def _described(source: ByteSource) -> dict[str, Any]:
    """What there is to tell of the programs: those of the first graph, as a server loads them."""
    message = _Message(Pages(source, _MOST_READS), Span(0, source.size))
    told: dict[str, Any] = {"tags": [], "tensorflow": "", "signatures": {}}
    graph = next((value for number, value in message.spans() if number == 2), None)
    if graph is None:
        raise ValueError("it has no graph")
    for number, part in graph.spans():
        if number == 1:
            tags = [value.text() for kind, value in part.spans() if kind == 4]
            told["tags"] = tags[:_MOST]
            told["tensorflow"] = next((v.text() for k, v in part.spans() if k == 5), "")
        elif number == 5 and len(told["signatures"]) < _MOST:
            name, signature = part.pair()
            if signature is not None and not name.startswith("__saved_model_"):
                told["signatures"][name] = _signature(signature)
    return told


def _signature(message: _Message) -> dict[str, dict[str, str]]:
    told: dict[str, dict[str, str]] = {"inputs": {}, "outputs": {}}
    for number, part in message.spans():
        side = {1: "inputs", 2: "outputs"}.get(number)
        if side is not None and len(told[side]) < _MOST:
            name, tensor = part.pair()
            told[side][name] = "" if tensor is None else _tensor(tensor)
    return told


def _tensor(message: _Message) -> str:
    """A TensorInfo, as `float32[?, 28]`."""
    dtype, sizes = "unknown", "[...]"
    for number, value in message.fields():
        if number == 2 and isinstance(value, int):
            dtype = DTYPES.get(value) or UNREADABLE.get(value, str(integer(value)))
        elif number == 3 and isinstance(value, Span):
            sizes = _sizes(_Message(message.pages, value).bytes(_MAX_SHAPE_BYTES))
    return dtype + sizes


def _sizes(message: bytes) -> str:
    if message == b"\x18\x01":  # a rank that is not known
        return "[...]"
    return f"[{', '.join('?' if size < 0 else str(size) for size in shape(memoryview(message)))}]"


class _Message:
    """A message in the file, of which only what is asked for is read."""

    def __init__(self, pages: Pages, span: Span) -> None:
        self.pages = pages
        self._span = span

    def fields(self) -> Iterator[Field]:
        return walk(self.pages, self._span)

    def spans(self) -> Iterator[tuple[int, _Message]]:
        """The fields that are messages or texts."""
        for number, value in self.fields():
            if isinstance(value, Span):
                yield number, _Message(self.pages, value)

    def pair(self) -> tuple[str, _Message | None]:
        """The name and the value of an entry of a map."""
        parts = dict(self.spans())
        return (parts[1].text() if 1 in parts else ""), parts.get(2)

    def text(self) -> str:
        return text(self.pages.read(self._span.position, min(self._span.length, _LONGEST_TEXT)))

    def bytes(self, most: int) -> bytes:
        if self._span.length > most:
            raise ValueError(f"{self._span.length} bytes where at most {most} are expected")
        return self.pages.read(self._span.position, self._span.length)
