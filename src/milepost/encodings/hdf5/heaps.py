"""Heaps: where names and strings of any length lie."""

from __future__ import annotations

import struct

from milepost.encodings.hdf5.image import Image

_MOST_KEPT = 64


class LocalHeap:
    """The names of a group's members."""

    def __init__(self, image: Image, address: int) -> None:
        cursor = image.cursor(address, 8 + 2 * image.length_size + image.offset_size)
        cursor.expect(b"HEAP")
        cursor.version("a local heap", (0,))
        cursor.skip(3)
        size = cursor.length()
        cursor.length()
        self._image = image
        self._data = image.read(cursor.offset(), size)

    def name(self, offset: int) -> bytes:
        end = self._data.find(b"\0", offset)
        if end < 0:
            raise self._image.damaged("the name of a member lies outside of its heap")
        self._image.spend(end - offset)
        return self._data[offset:end]


class GlobalHeap:
    """The strings of variable length of a file, in collections."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._collections: dict[int, dict[int, tuple[int, int]]] = {}

    def string(self, reference: bytes) -> bytes:
        """What a length, the address of a collection and a number in it stand for."""
        width = self._image.offset_size
        length = int.from_bytes(reference[:4], "little")
        address = int.from_bytes(reference[4 : 4 + width], "little")
        number = int.from_bytes(reference[4 + width : 8 + width], "little")
        if not length or not address:
            return b""
        objects = self._collections.get(address)
        if objects is None:
            if len(self._collections) >= _MOST_KEPT:
                self._collections.clear()
            objects = self._collections[address] = self._read(address)
        place, size = objects.get(number, (0, 0))
        if length > size:
            raise self._image.damaged(
                f"a string of {length} bytes is not in the collection at byte {address}"
            )
        return self._image.read(place, length)

    def _read(self, address: int) -> dict[int, tuple[int, int]]:
        """The place and size of every object in a collection."""
        image = self._image
        width = image.length_size
        head = 8 + width
        cursor = image.cursor(address, head)
        cursor.expect(b"GCOL")
        cursor.version("a heap", (1,))
        cursor.skip(3)
        size = cursor.length()
        data = image.read(address, size)
        found: dict[int, tuple[int, int]] = {}
        position = head
        while position + head <= len(data):
            image.spend(0)
            (number,) = struct.unpack_from("<H", data, position)
            length = int.from_bytes(data[position + 8 : position + head], "little")
            if number == 0:
                break  # free space, up to the end
            position += head
            if length > len(data) - position:
                raise image.damaged("an object ends behind its collection")
            found[number] = (address + position, length)
            position += -(-length // 8) * 8
        return found
