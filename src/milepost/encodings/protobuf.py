"""The fields of a protobuf message, as far as it takes to look for something in one.

https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TAGS = 1 << 32


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The number and value of every field: an integer, or the bytes of anything longer.

    Raises:
        ValueError: it is no message.
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        if tag >= _TAGS:  # some readers drop what is above, and see another field
            raise ValueError(f"a field of the number {tag >> 3}")
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire == _BYTES:
            length, position = _varint(message, position)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"a field of the wire type {wire}")
        if length > len(message) - position:
            raise ValueError("a field that ends behind its message")
        yield number, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
    raise ValueError("a number without an end")
