"""Groups: the names in one, and where the object of each is."""

from __future__ import annotations

from collections.abc import Iterator

from milepost.encodings.hdf5.dense import heap_objects
from milepost.encodings.hdf5.heaps import LocalHeap
from milepost.encodings.hdf5.image import Cursor, Image
from milepost.encodings.hdf5.objects import LINK, LINKS, TABLE, Message
from milepost.errors import UntrustedError

_SOFT = 2  # of a symbol table's entries
_HARD_LINK, _LINK_NAMES = 0, 5
_KINDS = {1: "a soft link", 64: "a link to another file"}


def is_group(messages: list[Message]) -> bool:
    return any(message.kind in (TABLE, LINKS, LINK) for message in messages)


def members(image: Image, messages: list[Message]) -> Iterator[tuple[str, int]]:
    """The name and the address of everything in a group.

    Raises:
        UntrustedError: it has a link to another place or file.
    """
    for message in messages:
        cursor = message.cursor(image)
        if message.kind == TABLE:
            tree, heap = cursor.offset(), cursor.offset()
            if tree != image.undefined:
                yield from _table(image, tree, LocalHeap(image, heap), set())
        elif message.kind == LINK:
            yield _link(cursor)
        elif message.kind == LINKS:
            yield from _dense_links(image, cursor)


def _table(
    image: Image, address: int, heap: LocalHeap, seen: set[int], depth: int = 0
) -> Iterator[tuple[str, int]]:
    """The members below a node of a symbol table's tree."""
    if address in seen or depth > 16:
        raise UntrustedError(f"{image.source.name} has a group that contains itself")
    seen.add(address)
    cursor = image.cursor(address, 8 + 2 * image.offset_size)
    cursor.expect(b"TREE")
    kind, level, used = cursor.uint(1), cursor.uint(1), cursor.uint(2)
    if kind != 0:
        raise image.damaged(f"a group has a tree of the kind {kind}")
    start = address + 8 + 2 * image.offset_size
    entries = Cursor(image, image.read(start, used * (image.length_size + image.offset_size)))
    for _ in range(used):
        entries.length()
        child = entries.offset()
        if level:
            yield from _table(image, child, heap, seen, depth + 1)
        else:
            yield from _symbols(image, child, heap, seen)


def _symbols(
    image: Image, address: int, heap: LocalHeap, seen: set[int]
) -> Iterator[tuple[str, int]]:
    if address in seen:
        raise UntrustedError(f"{image.source.name} has a group that contains itself")
    seen.add(address)
    cursor = image.cursor(address, 8)
    cursor.expect(b"SNOD")
    cursor.version("a symbol table", (1,))
    cursor.skip(1)
    count = cursor.uint(2)
    size = 2 * image.offset_size + 24
    entries = Cursor(image, image.read(address + 8, count * size))
    for _ in range(count):
        image.spend(0)
        name, target, cached = entries.offset(), entries.offset(), entries.uint(4)
        entries.skip(20)
        if cached == _SOFT:
            raise _refused(image, _KINDS[1], heap.name(name))
        yield _text(image, heap.name(name)), target


def _link(cursor: Cursor) -> tuple[str, int]:
    image = cursor.image
    image.spend(0)
    cursor.version("a link", (1,))
    flags = cursor.uint(1)
    kind = cursor.uint(1) if flags & 8 else _HARD_LINK
    cursor.skip((8 if flags & 4 else 0) + (1 if flags & 0x10 else 0))
    name = cursor.take(cursor.uint(1 << (flags & 3)))
    if kind != _HARD_LINK:
        raise _refused(image, _KINDS.get(kind, "a link of an unknown kind"), name)
    return _text(image, name), cursor.offset()


def _dense_links(image: Image, cursor: Cursor) -> Iterator[tuple[str, int]]:
    cursor.version("a group", (0,))
    flags = cursor.uint(1)
    cursor.skip(8 if flags & 1 else 0)
    heap, index = cursor.offset(), cursor.offset()
    if heap != image.undefined:
        for data in heap_objects(image, heap, index, _LINK_NAMES):
            yield _link(Cursor(image, data))


def _refused(image: Image, what: str, name: bytes) -> UntrustedError:
    return UntrustedError(
        f"{image.source.name} has {what}, {name!r:.80}: links are never followed, because they "
        "lead anywhere; write the values themselves"
    )


def _text(image: Image, name: bytes) -> str:
    """A name that can be a part of a leaf's."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = ""
    if not text.isprintable() or not text or "/" in text:
        raise image.damaged(f"a member is called {name!r:.80}")
    return text
