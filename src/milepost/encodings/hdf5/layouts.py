"""Where the elements of a dataset lie: in its header, in one piece, or in chunks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from milepost.encodings.hdf5.image import Cursor, Image, lookup3
from milepost.errors import UntrustedError

_INDICES = {4: "chunks that grow along one axis", 5: "chunks that grow along several axes"}


@dataclass(frozen=True, slots=True)
class Stored:
    """A chunk: where it lies, how many bytes it has there, and the filters that it lacks."""

    address: int
    size: int
    mask: int


@dataclass(frozen=True, slots=True)
class Layout:
    """
    Attributes:
        address: of the elements, or of the index of chunks; None if there are none.
        size: of the elements in one piece, as the file says it, if it does.
        chunk: the shape of a chunk; None if the elements lie in one piece.
        index: the kind of the index; 0 is a tree, as h5py usually writes it.
        only: the only chunk, of an index that is none.
        element: the size of an element that the chunks have, in bytes.
    """

    address: int | None
    size: int | None = None
    chunk: tuple[int, ...] | None = None
    index: int = 0
    only: Stored | None = None
    element: int = 0


def read_layout(cursor: Cursor, address: int) -> Layout:
    """The layout in a message whose bytes lie at `address`.

    Raises:
        UntrustedError: the elements lie in other files.
    """
    image = cursor.image
    version = cursor.version("a layout", (1, 2, 3, 4))
    if version < 3:
        return _old_layout(cursor, address)
    kind = cursor.uint(1)
    if kind == 0:
        size = cursor.uint(2)
        cursor_at = address + cursor.position
        cursor.skip(size)
        return Layout(cursor_at, size)
    if kind == 1:
        return Layout(_defined(image, cursor.offset()), cursor.length())
    if kind == 2:
        return _new_chunks(cursor) if version == 4 else _tree_chunks(cursor)
    raise UntrustedError(
        f"{image.source.name} has a virtual dataset, which is made of other files: milepost "
        "never opens those; write the values themselves"
    )


def _old_layout(cursor: Cursor, address: int) -> Layout:
    rank, kind = cursor.uints(2, 1)
    cursor.skip(5)
    place = cursor.offset() if kind else 0
    shape = tuple(cursor.uints(rank, 4))
    if kind == 2:
        found = _defined(cursor.image, place)
        return Layout(found, chunk=shape[:-1], element=shape[-1] if shape else 0)
    if kind == 1:
        return Layout(_defined(cursor.image, place))
    size = cursor.uint(4)
    return Layout(address + cursor.position, size)


def _tree_chunks(cursor: Cursor) -> Layout:
    rank = cursor.uint(1)
    address = _defined(cursor.image, cursor.offset())
    shape = cursor.uints(rank, 4)
    return Layout(address, chunk=tuple(shape[:-1]), element=shape[-1] if shape else 0)


def _new_chunks(cursor: Cursor) -> Layout:
    image = cursor.image
    flags, rank, width = cursor.uints(3, 1)
    shape = cursor.uints(rank, width)
    index = cursor.uint(1)
    layout = Layout(None, chunk=tuple(shape[:-1]), index=index, element=shape[-1] if shape else 0)
    match index:
        case 1:
            size, mask = (cursor.length(), cursor.uint(4)) if flags & 2 else (0, 0)
            address = _defined(image, cursor.offset())
            only = None if address is None else Stored(address, size or math.prod(shape), mask)
            return replace(layout, address=address, only=only)
        case 2:
            return replace(layout, address=_defined(image, cursor.offset()))
        case 3:
            cursor.skip(1)
            return replace(layout, address=_defined(image, cursor.offset()))
    raise image.unknown(_INDICES.get(index, f"the chunk index {index}"))


def _defined(image: Image, address: int) -> int | None:
    return None if address == image.undefined else address


def stored_chunks(
    image: Image, layout: Layout, shape: tuple[int, ...], *, filtered: bool
) -> dict[tuple[int, ...], Stored]:
    """Every chunk that lies in the file, by its number along each axis.

    Raises:
        DamagedError: two are in one place, or outside of the dataset.
    """
    chunk = layout.chunk or ()
    counts = tuple(-(-size // part) for size, part in zip(shape, chunk, strict=True))
    found: dict[tuple[int, ...], Stored] = {}
    for number, stored in _chunks(image, layout, counts, filtered=filtered):
        if number in found or not all(n < count for n, count in zip(number, counts, strict=True)):
            raise image.damaged("a chunk lies outside of its dataset, or is there twice")
        found[number] = stored
    end = 0
    for stored in sorted(found.values(), key=lambda stored: stored.address):
        if stored.address < end:
            raise UntrustedError(
                f"{image.source.name} has chunks that lie over one another, to be more than they "
                "are"
            )
        end = stored.address + stored.size
    if end > image.source.size - image.base:
        raise image.damaged("a chunk ends behind the file: it is cut short")
    return found


def _chunks(
    image: Image, layout: Layout, counts: tuple[int, ...], *, filtered: bool
) -> Iterator[tuple[tuple[int, ...], Stored]]:
    if layout.address is None:
        return
    size = math.prod(layout.chunk or ()) * layout.element
    if layout.only is not None:
        yield (0,) * len(counts), layout.only
    elif layout.index == 0:
        yield from _tree(image, layout, layout.address, set(), 0)
    elif layout.index == 2:
        for flat in range(math.prod(counts)):
            image.spend(0)
            yield _unravel(flat, counts), Stored(layout.address + flat * size, size, 0)
    else:
        yield from _fixed_array(image, layout.address, counts, size, filtered=filtered)


def _unravel(flat: int, counts: tuple[int, ...]) -> tuple[int, ...]:
    number = []
    for count in reversed(counts):
        flat, last = divmod(flat, max(1, count))
        number.append(last)
    return tuple(reversed(number))


def _tree(
    image: Image, layout: Layout, address: int, seen: set[int], depth: int
) -> Iterator[tuple[tuple[int, ...], Stored]]:
    """The chunks below a node of a tree, whose keys are sizes, masks and places."""
    if address in seen or depth > 16:
        raise UntrustedError(f"{image.source.name} has chunks whose index contains itself")
    seen.add(address)
    chunk = layout.chunk or ()
    head = 8 + 2 * image.offset_size
    cursor = image.cursor(address, head)
    cursor.expect(b"TREE")
    kind, level, used = cursor.uint(1), cursor.uint(1), cursor.uint(2)
    if kind != 1:
        raise image.damaged(f"chunks have a tree of the kind {kind}")
    entry = 8 + 8 * (len(chunk) + 1) + image.offset_size
    entries = Cursor(image, image.read(address + head, used * entry))
    for _ in range(used):
        size, mask = entries.uint(4), entries.uint(4)
        place = entries.uints(len(chunk), 8)
        entries.skip(8)
        child = entries.offset()
        if level:
            yield from _tree(image, layout, child, seen, depth + 1)
            continue
        if any(start % part for start, part in zip(place, chunk, strict=True)):
            raise image.damaged("a chunk begins between two")
        number = tuple(start // part for start, part in zip(place, chunk, strict=True))
        yield number, Stored(child, size, mask)


def _fixed_array(
    image: Image, address: int, counts: tuple[int, ...], size: int, *, filtered: bool
) -> Iterator[tuple[tuple[int, ...], Stored]]:
    """The chunks of an index of one entry for each, in pages if there are many."""
    offset, length = image.offset_size, image.length_size
    cursor = image.cursor(address, 12 + length + offset)
    cursor.expect(b"FAHD")
    cursor.version("an index of chunks", (0,))
    cursor.skip(1)
    entry, page_bits = cursor.uints(2, 1)
    count, block = cursor.length(), cursor.offset()
    if block == image.undefined:
        return
    width = entry - offset - 4
    if count != math.prod(counts) or page_bits > 31 or (width < 1 if filtered else entry != offset):
        raise image.damaged("an index of chunks does not fit its dataset")
    page = 1 << page_bits
    pages = -(-count // page) if count > page else 0
    head = 6 + offset + (-(-pages // 8) + 4 if pages else 0)
    bitmap = image.read(block, head)[6 + offset :]
    if image.read(block, 4) != b"FADB":
        raise image.damaged("an index of chunks is not where it should be")
    place = block + head
    for first in range(0, count, page if pages else max(1, count)):
        number = min(page, count - first) if pages else count
        present = not pages or bitmap[first // page // 8] >> (7 - first // page % 8) & 1
        if present:
            data = image.read(place, number * entry)
            if pages:
                expected = int.from_bytes(image.read(place + number * entry, 4), "little")
                image.spend(16 * len(data))
                if lookup3(data) != expected:
                    raise image.damaged("the checksum of an index of chunks does not match")
            entries = Cursor(image, data)
            for flat in range(first, first + number):
                image.spend(0)
                at = entries.offset()
                stored = Stored(at, size, 0)
                if filtered:
                    stored = Stored(at, entries.uint(width), entries.uint(4))
                if at != image.undefined:
                    yield _unravel(flat, counts), stored
        place += number * entry + 4
