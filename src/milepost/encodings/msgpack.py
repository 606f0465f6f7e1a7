"""Msgpack, read so that large parts stay in the file: where they lie is told, not what they are.

https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from milepost.encodings.pages import Pages
from milepost.errors import DamagedError
from milepost.limits import shown
from milepost.source import ByteSource

_MAX_DEPTH = 64
# More than any model has that is known; each costs some time and memory.
_MAX_VALUES = 200_000
# Of all texts together: they come whole.
_MAX_TEXT = 16 << 20
_MAX_KEY = 1 << 16


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes that stay in the file: of a binary string, or of a value of type number `code`."""

    start: int
    length: int
    code: int | None = None  # None: a binary string

    @property
    def end(self) -> int:
        return self.start + self.length


Value: TypeAlias = "bool | int | float | str | Span | list[Value] | dict[str | int, Value] | None"


def read(
    source: ByteSource, start: int = 0, end: int | None = None, *, most: int = _MAX_VALUES
) -> Value:
    """The one value that fills the bytes from `start` up to `end`, or up to the end of the file.

    Raises:
        DamagedError: it is not valid, or not all that is there, a map has a key twice, or there
            are more than `most` values in it, which are more than any model has.
    """
    reader = _Reader(source, start, source.size if end is None else end, most)
    value = reader.value(0)
    if reader.position != reader.end:
        raise reader.damaged(f"expected the end at byte {reader.end}")
    return value


class _Reader:
    def __init__(self, source: ByteSource, position: int, end: int, most: int) -> None:
        self.position = position
        self.end = end
        self._most = most
        self._pages = Pages(source, 4 * most)
        self._values = 0
        self._text = 0

    def damaged(self, problem: str) -> DamagedError:
        return DamagedError(
            f"{self._pages.source.name} is no valid msgpack at byte {self.position}: {problem}"
        )

    def value(self, depth: int) -> Value:
        self._values += 1
        if self._values > self._most or depth > _MAX_DEPTH:
            raise self.damaged(f"more than {self._most:,} values, or {_MAX_DEPTH} in each other")
        first = self._take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 0x100
        if first < 0x90:
            return self._map(first & 0x0F, depth)
        if first < 0xA0:
            return self._list(first & 0x0F, depth)
        if first < 0xC0:
            return self._string(first & 0x1F)
        return self._other(first, depth)

    def _other(self, first: int, depth: int) -> Value:
        """A value whose first byte tells its type and no more."""
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _NUMBERS:
            number = _NUMBERS[first]
            unpacked: int | float = number.unpack(self._take(number.size))[0]
            return unpacked
        if first in _FIXED_EXTENSIONS:
            return self._extension(_FIXED_EXTENSIONS[first])
        if first not in _SIZED:
            raise self.damaged(f"{first:#04x} begins no value")
        width, kind = _SIZED[first]
        length = int.from_bytes(self._take(width), "big")
        if kind == "map":
            return self._map(length, depth)
        if kind == "list":
            return self._list(length, depth)
        readers: dict[str, Callable[[int], Value]] = {
            "text": self._string,
            "binary": self._skip,
            "extension": self._extension,
        }
        return readers[kind](length)

    def _take(self, length: int) -> bytes:
        if length > self.end - self.position:
            raise self.damaged(f"{length} bytes are expected, {self.end - self.position} are there")
        data = self._pages.read(self.position, length)
        self.position += length
        return data

    def _skip(self, length: int, code: int | None = None) -> Span:
        span = Span(self.position, length, code)
        if span.end > self.end:
            raise self.damaged(f"{length} bytes are expected, {self.end - self.position} are there")
        self.position = span.end
        return span

    def _extension(self, length: int) -> Span:
        code = int.from_bytes(self._take(1), "big", signed=True)
        return self._skip(length, code)

    def _string(self, length: int) -> str:
        self._text += length
        if self._text > _MAX_TEXT:
            raise self.damaged(f"more than {_MAX_TEXT:,} bytes of text")
        try:
            return self._take(length).decode()
        except UnicodeDecodeError as error:
            raise self.damaged(f"a text that is no UTF-8: {error}") from None

    def _list(self, length: int, depth: int) -> list[Value]:
        if length > self.end - self.position:  # a byte each, at least
            raise self.damaged(f"a list of {length} values in {self.end - self.position} bytes")
        return [self.value(depth + 1) for _ in range(length)]

    def _map(self, length: int, depth: int) -> dict[str | int, Value]:
        result: dict[str | int, Value] = {}
        for _ in range(length):
            key = self.value(depth + 1)
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise self.damaged(f"{shown(key)} is no key")
            if key in result or (isinstance(key, str) and len(key) > _MAX_KEY):
                raise self.damaged(f"the key {shown(key)} is there twice, or too long")
            result[key] = self.value(depth + 1)
        return result


_CONSTANTS: dict[int, bool | None] = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
    first: struct.Struct(">" + code)
    for first, code in zip((*range(0xCA, 0xD4),), "fdBHIQbhiq", strict=True)
}
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_SIZED = {
    **{0xC4: (1, "binary"), 0xC5: (2, "binary"), 0xC6: (4, "binary")},
    **{0xC7: (1, "extension"), 0xC8: (2, "extension"), 0xC9: (4, "extension")},
    **{0xD9: (1, "text"), 0xDA: (2, "text"), 0xDB: (4, "text")},
    **{0xDC: (2, "list"), 0xDD: (4, "list")},
    **{0xDE: (2, "map"), 0xDF: (4, "map")},
}
