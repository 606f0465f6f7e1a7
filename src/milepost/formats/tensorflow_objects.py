"""The names of what an object-based TensorFlow checkpoint holds, and the graph of its objects.

Such a checkpoint (`tf.train.Checkpoint`, `save_weights` of Keras 2) has a key for the path from
the root to each variable, and a graph in which a variable may be reached on other paths, too.

    layers/0/kernel/.ATTRIBUTES/VARIABLE_VALUE                    layers/0/kernel
    table/.ATTRIBUTES/table-keys                                  table/table-keys
    layers/0/kernel/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/...   optimizer/slots/m/layers/0/kernel

In a key `.S` stands for a slash inside of a name and `..` for a dot.

https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/protobuf/trackable_object_graph.proto
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/python/trackable/trackable_utils.py
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from milepost.encodings.protobuf import fields
from milepost.errors import DamagedError
from milepost.formats.tensorflow_bundle import data, integer

GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_ATTRIBUTES, _TENSORS, _SLOT = ".ATTRIBUTES", ".TENSORS", ".OPTIMIZER_SLOT"
_VALUE = "VARIABLE_VALUE"
_ESCAPED = re.compile(r"\.(\.|S)")
# The graph of a model of a thousand layers has a tenth of that. It is read when a name is asked
# for that is no leaf's, and a hostile one must not take long.
MAX_GRAPH_BYTES, _MAX_PARTS = 32 << 20, 300_000


def readable_names(keys: Collection[str]) -> dict[str, str]:
    """A readable name for each key; where two would have the same, both keep their keys."""
    readable = {key: _readable(key) for key in keys}
    counts = Counter(readable.values())
    names = {key: name if counts[name] == 1 else key for key, name in readable.items()}
    if len(set(names.values())) < len(names):  # a key that is another one's readable name
        return {key: key for key in keys}
    return names


def _readable(key: str) -> str:
    segments = key.split("/")
    attribute: list[str] = []
    for mark in (_ATTRIBUTES, _TENSORS):
        if mark in segments[1:]:
            at = segments.index(mark, 1)
            segments, attribute = segments[:at], segments[at + 1 :]
            break
    if attribute == [_VALUE]:
        attribute = []
    if _SLOT in segments[1:-2]:
        at = segments.index(_SLOT, 1)
        *optimizer, slot = segments[at + 1 :]
        segments = [*optimizer, "slots", slot, *segments[:at]]
    # The root's own values are behind a slash; a value of no name at all keeps its key.
    return "/".join(map(unescaped, segments + attribute)).lstrip("/") or key


def unescaped(segment: str) -> str:
    """One step of a path, as the program calls it."""
    return _ESCAPED.sub(lambda found: "/" if found[1] == "S" else ".", segment)


@dataclass(slots=True)
class Node:
    """An object: its children by name, and the key of each of its values."""

    children: dict[str, int] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    full_names: dict[str, str] = field(default_factory=dict)  # of the values, to their keys


class ObjectGraph:
    """The objects that were saved, and which refers to which: maybe in circles."""

    def __init__(self, message: bytes, file: str) -> None:
        """Raises DamagedError if it is no graph, or a larger one than is known."""
        try:
            self._nodes = _parse(memoryview(message))
        except ValueError as error:
            raise DamagedError(f"{file}, its object graph: {error}") from None
        names = Counter(name for node in self._nodes for name in node.full_names)
        self._full_names = {
            name: key
            for node in self._nodes
            for name, key in node.full_names.items()
            if names[name] == 1  # variables of several objects may share a name
        }

    def key(self, name: str) -> str | None:
        """The key of the value that a path, or a variable's own name, leads to."""
        node, steps = 0, name.split("/")
        for place, step in enumerate(steps):
            child = self._child(node, unescaped(step))
            if child is None:
                rest = "/".join(steps[place:])
                found = self._nodes[node].keys.get(rest) if self._nodes else None
                return found or self._full_names.get(name)
            node = child
        return self._nodes[node].keys.get(_VALUE) or self._full_names.get(name)

    def _child(self, node: int, name: str) -> int | None:
        return self._nodes[node].children.get(name) if self._nodes else None

    def paths(self) -> Iterator[tuple[str, str]]:
        """Paths and own names, with the key that each leads to.

        Each reference is on one path, the one that reaches its object with the fewest steps.
        """
        seen, queue = {0}, [(0, "")]
        for node, path in queue if self._nodes else ():
            for name, child in self._nodes[node].children.items():
                step = path + name
                for value, key in self._nodes[child].keys.items():
                    yield (step if value == _VALUE else f"{step}/{value}"), key
                if child not in seen and len(step) < _MAX_PATH:
                    seen.add(child)
                    queue.append((child, step + "/"))
        yield from self._full_names.items()


# Names in a chain of objects add up to the square of its length.
_MAX_PATH = 1000


def _parse(message: memoryview) -> list[Node]:
    nodes: list[Node] = []
    parts = 0
    for number, value in fields(message):
        if number != 1:
            continue
        node, parts = Node(), parts + 1
        for kind, part in fields(data(value)):
            parts += 1
            if parts > _MAX_PARTS:
                break
            if kind == 1:
                child, name = _child(data(part))
                node.children[name] = child
            elif kind == 2:
                name, full_name, key = _attribute(data(part))
                node.keys[name] = key
                if full_name:
                    node.full_names[full_name] = key
        nodes.append(node)
        if parts > _MAX_PARTS:
            raise ValueError(f"more than {_MAX_PARTS:,} objects and references")
    for node in nodes:
        if any(not 0 <= child < len(nodes) for child in node.children.values()):
            raise ValueError(f"an object refers to one that is not among the {len(nodes)}")
    return nodes


def _child(message: memoryview) -> tuple[int, str]:
    number, name = 0, ""
    for kind, value in fields(message):
        if kind == 1:
            number = integer(value)
        elif kind == 2:
            name = str(data(value), "utf-8")
    return number, name


def _attribute(message: memoryview) -> tuple[str, str, str]:
    texts = {kind: str(data(value), "utf-8") for kind, value in fields(message) if kind <= 3}
    return texts.get(1, ""), texts.get(2, ""), texts.get(3, "")


def aliases(graph: ObjectGraph, names: Mapping[str, str]) -> dict[str, str]:
    """Further names of leaves: those of the graph, and keys. `names` maps keys to leaves."""
    pairs = [*graph.paths(), *((key, key) for key in names)]
    return {path: names[key] for path, key in pairs if names.get(key, path) != path}
