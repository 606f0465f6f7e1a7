"""Tables of a FlatBuffers file: fields by their number, wherever in the file they lie.

    root offset, identifier         a table begins with the distance back to its vtable, which
    ...                             has two lengths, then the offset of each field in the table

https://flatbuffers.dev/internals. Nothing is followed that does not lie in the file, and who
asks decides how deep to go: so offsets in a circle do no harm.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from milepost.dtypes import Array
from milepost.encodings.pages import Pages
from milepost.errors import DamagedError

_SIZES = {"B": 1, "b": 1, "?": 1, "H": 2, "h": 2, "I": 4, "i": 4, "f": 4, "Q": 8, "q": 8, "d": 8}


class Table:
    """A table: numbers, texts, vectors and other tables, each in a field of a number."""

    def __init__(self, pages: Pages, position: int) -> None:
        self._pages = pages
        self.position = position
        self._vtable = position - _unpack(pages, position, "i")
        length, self._size = struct.unpack("<HH", pages.read(self._vtable, 4))
        if length < 4 or length % 2 or self._size < 4:
            raise _invalid(pages, f"a table at {position} of {length} and {self._size} bytes")
        self._offsets = struct.unpack(
            f"<{length // 2 - 2}H", pages.read(self._vtable + 4, length - 4)
        )

    def has(self, field: int) -> bool:
        """Whether it has the field."""
        return field < len(self._offsets) and self._offsets[field] != 0

    def number(self, field: int, code: str, default: int = 0) -> int:
        """A number, of the type that `struct` calls `code`."""
        if not self.has(field):
            return default
        return int(_unpack(self._pages, self._place(field, _SIZES[code]), code))

    def table(self, field: int) -> Table | None:
        """Another table."""
        return Table(self._pages, self._target(field)) if self.has(field) else None

    def tables(self, field: int, most: int) -> Iterator[Table]:
        """The tables of a vector, of `most` at most."""
        position, count = self.vector(field, 4)
        if count > most:
            raise _invalid(self._pages, f"{count:,} tables in one list, more than {most:,}")
        for place in range(position, position + 4 * count, 4):
            yield Table(self._pages, place + _unpack(self._pages, place, "I"))

    def vector(self, field: int, itemsize: int) -> tuple[int, int]:
        """Where the items of a vector begin, and how many there are; they lie in the file."""
        if not self.has(field):
            return self.position, 0
        position = self._target(field)
        count = _unpack(self._pages, position, "I")
        if count * itemsize > self._pages.size - position - 4:
            raise _invalid(self._pages, f"a list of {count:,} items at {position}, too many")
        return position + 4, count

    def numbers(self, field: int, code: str, most: int) -> Array:
        """The numbers of a vector, of `most` at most."""
        position, count = self.vector(field, _SIZES[code])
        if count > most:
            raise _invalid(self._pages, f"{count:,} numbers in one list, more than {most:,}")
        data = self._pages.read(position, count * _SIZES[code])
        return np.frombuffer(data, np.dtype(code).newbyteorder("<"))

    def text(self, field: int, most: int) -> bytes:
        """The bytes of a text, of `most` at most."""
        position, count = self.vector(field, 1)
        if count > most:
            raise _invalid(self._pages, f"a text of {count:,} bytes, more than {most:,}")
        return self._pages.read(position, count)

    def _place(self, field: int, size: int) -> int:
        offset = self._offsets[field]
        if offset < 4 or offset + size > self._size:
            raise _invalid(
                self._pages, f"a field at {offset} of the table at {self.position}, outside of it"
            )
        return self.position + int(offset)

    def _target(self, field: int) -> int:
        place = self._place(field, 4)
        return place + int(_unpack(self._pages, place, "I"))


def root(pages: Pages) -> Table:
    """The table with which a file begins.

    Raises:
        DamagedError: it lies outside of the file.
    """
    return Table(pages, int(_unpack(pages, 0, "I")))


def _unpack(pages: Pages, position: int, code: str) -> int:
    (value,) = struct.unpack("<" + code, pages.read(position, _SIZES[code]))
    return value  # type: ignore[no-any-return]


def _invalid(pages: Pages, found: str) -> DamagedError:
    return DamagedError(f"{pages.source.name} is damaged: it has {found}")
