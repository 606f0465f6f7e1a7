"""Groups and objects of many members or attributes: a fractal heap, and a tree that lists it.

Only h5py's `libver="latest"` and `track_order=True` write these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from milepost.encodings.hdf5.image import Cursor, Image, lookup3
from milepost.errors import UntrustedError

_CHECKSUM = 4
_MANAGED = 0


def heap_objects(image: Image, heap: int, index: int, kind: int) -> Iterator[bytes]:
    """The objects of the heap that a tree of records of a kind lists."""
    found = _Heap(image, heap)
    for record in _records(image, index, kind):
        # Of links the hash comes before the place in the heap, of attributes after it.
        place = record[4:] if kind == 5 else record
        yield found.object(place[: found.id_length])


# The heap


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of data, and where its bytes are in the heap's own addresses."""

    start: int
    size: int
    address: int


class _Heap:
    def __init__(self, image: Image, address: int) -> None:
        offset, length = image.offset_size, image.length_size
        size = 22 + 12 * length + 3 * offset
        cursor = image.cursor(address, size)
        cursor.expect(b"FRHP")
        cursor.version("a fractal heap", (0,))
        self.id_length = cursor.uint(2)
        filters, flags = cursor.uint(2), cursor.uint(1)
        most = cursor.uint(4)
        cursor.skip(10 * length + 2 * offset)
        self._width = cursor.uint(2)
        first, largest = cursor.length(), cursor.length()
        bits = cursor.uint(2)
        cursor.skip(2)
        root, rows = cursor.offset(), cursor.uint(2)
        if filters or not self._width or not first or first > largest or bits > 64:
            raise image.unknown("a heap of an unusual kind")
        self._image = image
        self._offset_bytes = -(-bits // 8)
        self._length_bytes = min(-(-largest.bit_length() // 8), -(-most.bit_length() // 8))
        self._first, self._largest = first, largest
        self._tail = _CHECKSUM if flags & 2 else 0
        self._blocks: list[_Block] = []
        if root != image.undefined:
            if rows:
                self._add_rows(root, rows, 0, 0)
            else:
                self._blocks.append(_Block(0, first, root))

    def object(self, identity: bytes) -> bytes:
        """An object by the number of where it lies."""
        image = self._image
        cursor = Cursor(image, identity)
        if cursor.uint(1) >> 4 & 3 != _MANAGED:
            raise image.unknown("links or attributes of an unusual size")
        start, length = cursor.uint(self._offset_bytes), cursor.uint(self._length_bytes)
        for block in self._blocks:
            image.spend(0)
            if block.start <= start and start + length <= block.start + block.size:
                return image.read(block.address + start - block.start, length)
        raise image.damaged("an object lies outside of its heap")

    def _add_rows(self, address: int, rows: int, start: int, depth: int) -> None:
        """The blocks of an indirect block; those of row n > 1 are twice those of n - 1."""
        image = self._image
        if depth > 8 or rows > 128:
            raise UntrustedError(f"{image.source.name} has a heap that contains itself")
        head = 5 + image.offset_size + self._offset_bytes
        entries = image.cursor(address, head + rows * self._width * image.offset_size)
        entries.expect(b"FHIB")
        entries.skip(head - 4)
        for row in range(rows):
            size = self._first << max(0, row - 1)
            for _ in range(self._width):
                image.spend(0)
                child = entries.offset()
                if child != image.undefined:
                    if size <= self._largest:
                        self._blocks.append(_Block(start, size, child))
                    else:
                        inner = (size // (self._first * self._width)).bit_length()
                        self._add_rows(child, inner, start, depth + 1)
                start += size


# The tree


def _records(image: Image, address: int, kind: int) -> Iterator[bytes]:
    """Every record of a tree."""
    cursor = image.cursor(address, 22 + image.offset_size + image.length_size)
    cursor.expect(b"BTHD")
    cursor.version("a tree", (0,))
    found, node = cursor.uint(1), cursor.uint(4)
    size, depth = cursor.uint(2), cursor.uint(2)
    cursor.skip(2)
    root, count = cursor.offset(), cursor.uint(2)
    if found != kind or not size or depth > 8 or node < 16:
        raise image.damaged(f"a tree of the kind {found}, and {kind} was expected")
    if root != image.undefined and count:
        yield from _below(image, _Shape(kind, node, size), root, count, depth)


@dataclass(frozen=True, slots=True)
class _Shape:
    """How many records fit the nodes of a tree, which tells the widths of its counts."""

    kind: int
    node: int
    record: int

    def widths(self, offset_size: int, depth: int) -> tuple[int, int]:
        """The widths of a child's number of records, and of those below it, in a node."""
        most = (self.node - 10) // self.record
        own, below, total = _width(most), 0, most
        for level in range(1, depth):
            pointer = offset_size + own + (below if level > 1 else 0)
            fit = max(0, self.node - 10 - pointer) // (self.record + pointer)
            total = (fit + 1) * total + fit
            below = _width(total)
        return own, below if depth > 1 else 0


def _width(count: int) -> int:
    return max(1, -(-count.bit_length() // 8))


def _below(image: Image, shape: _Shape, address: int, count: int, depth: int) -> Iterator[bytes]:
    own, below = shape.widths(image.offset_size, depth)
    pointer = image.offset_size + own + below
    length = 6 + count * shape.record + ((count + 1) * pointer if depth else 0)
    if length > shape.node:
        raise image.damaged("a node of a tree has more records than fit")
    data = image.read(address, length + _CHECKSUM)
    image.spend(16 * length)
    if lookup3(data[:-_CHECKSUM]) != int.from_bytes(data[-_CHECKSUM:], "little"):
        raise image.damaged("the checksum of a tree does not match: restore it from a backup")
    cursor = Cursor(image, data)
    cursor.expect(b"BTIN" if depth else b"BTLF")
    cursor.version("a tree", (0,))
    cursor.uint(1)
    for _ in range(count):
        yield cursor.take(shape.record)
    for _ in range(count + 1 if depth else 0):
        child, records = cursor.offset(), cursor.uint(own)
        cursor.skip(below)
        yield from _below(image, shape, child, records, depth - 1)
