"""Attributes: small values beside a group or a dataset."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from milepost.encodings.hdf5.datasets import read_shape
from milepost.encodings.hdf5.datatypes import decode, read_datatype
from milepost.encodings.hdf5.dense import heap_objects
from milepost.encodings.hdf5.heaps import GlobalHeap
from milepost.encodings.hdf5.image import Cursor, Image
from milepost.encodings.hdf5.objects import ATTRIBUTE, ATTRIBUTES, SPACE, TYPE, Message, resolved
from milepost.errors import UnknownFormatError, UntrustedError

_SHARED_TYPE, _SHARED_SPACE = 1, 2
_NAMES = 8  # the kind of the tree that lists them
_UNREAD = "(of a type that is not read)"

# Plain values of Python: numbers, texts, bytes, lists of them, None.
Value: TypeAlias = Any


def read_attributes(image: Image, heap: GlobalHeap, messages: list[Message]) -> dict[str, Value]:
    """The attributes of an object by name, as plain values of Python."""
    found: dict[str, Value] = {}
    for cursor in _all(image, messages):
        name, value = _attribute(cursor, heap)
        if name in found:
            raise image.damaged(f"two attributes called {name!r:.80}")
        found[name] = value
    return found


def _all(image: Image, messages: list[Message]) -> Iterator[Cursor]:
    for message in messages:
        if message.kind == ATTRIBUTE:
            yield resolved(image, message)
        elif message.kind == ATTRIBUTES:
            cursor = message.cursor(image)
            cursor.version("attributes", (0,))
            flags = cursor.uint(1)
            cursor.skip(2 if flags & 1 else 0)
            place, index = cursor.offset(), cursor.offset()
            if place != image.undefined:
                for data in heap_objects(image, place, index, _NAMES):
                    yield Cursor(image, data)


def _attribute(cursor: Cursor, heap: GlobalHeap) -> tuple[str, Value]:
    image = cursor.image
    version = cursor.version("an attribute", (1, 2, 3))
    flags = cursor.uint(1)
    lengths = cursor.uints(3, 2)
    cursor.skip(1 if version == 3 else 0)
    if version == 1:
        flags = 0
    parts = []
    for length in lengths:
        parts.append(cursor.take(length))
        cursor.skip(-length % 8 if version == 1 else 0)
    name = parts[0].partition(b"\0")[0].decode("utf-8", "backslashreplace")
    kind = resolved(image, Message(TYPE, parts[1], 0, bool(flags & _SHARED_TYPE)))
    space = resolved(image, Message(SPACE, parts[2], 0, bool(flags & _SHARED_SPACE)))
    try:
        datatype = read_datatype(kind)
    except (UnknownFormatError, UntrustedError):
        return name, _UNREAD  # tables and dimension scales refer to one another
    shape = read_shape(space)
    if shape is None:
        return name, None
    if datatype.members:
        return name, _UNREAD
    length = math.prod(shape) * datatype.size
    image.spend(16 * math.prod(shape) + length)
    raw = np.frombuffer(cursor.take(length), np.uint8).reshape(*shape, datatype.size)
    return name, _plain(decode(raw, datatype, heap.string).tolist())


def _plain(value: Value) -> Value:
    """Texts are text to whoever wrote them, even where HDF5 has bytes."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value
