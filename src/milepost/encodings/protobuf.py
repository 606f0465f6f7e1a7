"""The fields of a protobuf message, as far as it takes to look for something in one.

https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from milepost.encodings.pages import Pages

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TAGS = 1 << 32
# A tag, and a number or a length.
_LONGEST_START = 20


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The number and value of every field: an integer, or the bytes of anything longer.

    Raises:
        ValueError: it is no message.
    """
    position = 0
    while position < len(message):
        number, value, length, position = _field(message, position)
        if length is None:
            yield number, value
            continue
        if length > len(message) - position:
            raise ValueError("a field that ends behind its message")
        yield number, message[position : position + length]
        position += length


class Span(NamedTuple):
    """Where in a file the bytes of a field lie."""

    position: int
    length: int


def walk(pages: Pages, message: Span, *, cut: bool = False) -> Iterator[tuple[int, int | Span]]:
    """As `fields`, for a message in a file: the bytes of what is longer are not read.

    Of a message that is `cut` the last field may end behind it.

    Raises:
        ValueError: it is no message.
        DamagedError: as `Pages.read`.
    """
    position, end = message.position, message.position + message.length
    while position < end:
        start = pages.read(position, min(_LONGEST_START, end - position))
        number, value, length, taken = _field(start, 0)
        position += taken
        if length is None:
            yield number, value
            continue
        if length > end - position and not cut:
            raise ValueError(
                f"a field of {length} bytes at {position}, where {end - position} are left"
            )
        yield number, Span(position, length)
        position += length


def _field(data: bytes | memoryview, position: int) -> tuple[int, int, int | None, int]:
    """The number of the field at `position`, its value or length, and where that ended."""
    tag, position = varint(data, position)
    if tag >= _TAGS:  # some readers drop what is above, and see another field
        raise ValueError(f"a field of the number {tag >> 3}")
    number, wire = tag >> 3, tag & 7
    if wire == _VARINT:
        value, position = varint(data, position)
        return number, value, None, position
    if wire == _BYTES:
        length, position = varint(data, position)
        return number, 0, length, position
    if wire in (_FIXED64, _FIXED32):
        return number, 0, 8 if wire == _FIXED64 else 4, position
    raise ValueError(f"a field of the wire type {wire}")


def varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """The number at a position, and where it ends; ValueError if it does not."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
    raise ValueError("a number without an end")
