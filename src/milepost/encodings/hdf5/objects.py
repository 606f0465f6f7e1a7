"""Objects: the header of a group or a dataset, as its messages."""

from __future__ import annotations

from dataclasses import dataclass

from milepost.encodings.hdf5.image import Cursor, Image, lookup3
from milepost.errors import UntrustedError
from milepost.source import ByteSource, read_exactly

MARK = b"\x89HDF\r\n\x1a\n"
# Where a file begins that has something else before it.
_FIRST_BLOCK = 512

(SPACE, LINKS, TYPE, FILL_OLD, FILL, LINK, EXTERNAL, LAYOUT) = range(1, 9)
(FILTERS, ATTRIBUTE, CONTINUED, TABLE, ATTRIBUTES) = (0x0B, 0x0C, 0x10, 0x11, 0x15)
_NIL = 0
_KNOWN = range(0x18)
_SHARED, _MUST_KNOW = 0x02, 0x80
_MOST_MESSAGES = 100_000


@dataclass(frozen=True, slots=True)
class Message:
    """One thing that a header says of its object; `address` is where its bytes lie."""

    kind: int
    body: bytes
    address: int
    shared: bool

    def cursor(self, image: Image) -> Cursor:
        return Cursor(image, self.body)


def find_base(source: ByteSource) -> int | None:
    """Where the HDF5 file begins in a file: at its start, or at 512 bytes, 1024, 2048..."""
    place = 0
    while place + len(MARK) <= source.size:
        if bytes(read_exactly(source, place, len(MARK))) == MARK:
            return place
        place = max(_FIRST_BLOCK, 2 * place)
    return None


def read_superblock(source: ByteSource) -> tuple[Image, int]:
    """The image of a file, and the address of its root group.

    Raises:
        DamagedError: it is not valid, or cut short.
    """
    start = find_base(source)
    image = Image(source, start or 0)
    if start is None:
        raise image.damaged("it has no mark")
    cursor = image.cursor(0, 128)
    cursor.skip(len(MARK))
    version = cursor.version("the superblock", range(4))
    if version < 2:
        cursor.skip(4)
    image.offset_size, image.length_size = cursor.uints(2, 1)
    if image.offset_size not in (4, 8) or image.length_size not in (4, 8):
        raise image.damaged(f"addresses of {image.offset_size} bytes")
    if version < 2:
        cursor.skip(1 + 4 + 4 + (4 if version == 1 else 0))
        base, _, end, _ = (cursor.offset() for _ in range(4))
        cursor.offset()  # the name of the root group, which has none
        root = cursor.offset()
    else:
        cursor.skip(1)
        base, _, end, root = (cursor.offset() for _ in range(4))
        _check_sum(image, cursor.data[: cursor.position], cursor.uint(4), "superblock")
    if base != start:
        raise image.damaged(f"it begins at byte {start}, and says {base}")
    if base + end > source.size and end > source.size:
        raise image.damaged(
            f"it is cut short: expected {end:,} bytes, found {source.size:,}; restore it from a "
            "backup"
        )
    return image, root


def read_header(image: Image, address: int) -> list[Message]:
    """The messages of the object at an address."""
    cursor = image.cursor(address, 32)
    if cursor.data.startswith(b"OHDR"):
        return _new_header(image, address, cursor)
    return _old_header(image, address, cursor)


def _old_header(image: Image, address: int, cursor: Cursor) -> list[Message]:
    cursor.version("an object's header", (1,))
    cursor.skip(1)
    count, _, size = cursor.uint(2), cursor.uint(4), cursor.uint(4)
    blocks = [(address + 16, size)]
    messages: list[Message] = []
    seen = 0
    for place, length in blocks:  # which grows meanwhile
        block = image.cursor(place, length)
        if block.left < length:
            raise image.damaged("an object's header ends behind the file")
        while block.left >= 8 and seen < count:
            seen += 1
            kind, size, flags = block.uint(2), block.uint(2), block.uint(1)
            block.skip(3)
            body_at = place + block.position
            _add(image, Message(kind, block.take(size), body_at, False), flags, messages, blocks)
    return messages


def _new_header(image: Image, address: int, cursor: Cursor) -> list[Message]:
    cursor.expect(b"OHDR")
    cursor.version("an object's header", (2,))
    flags = cursor.uint(1)
    cursor.skip((16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0))
    size = cursor.uint(1 << (flags & 3))
    ordered = 2 if flags & 4 else 0
    first = cursor.position
    blocks = [(address, first + size + 4)]
    messages: list[Message] = []
    for index, (place, length) in enumerate(blocks):  # which grows meanwhile
        block = image.cursor(place, length)
        if block.left < length or length < 8:
            raise image.damaged("an object's header ends behind the file")
        _check_sum(image, block.data[:-4], int.from_bytes(block.data[-4:], "little"), "header")
        if index:
            block.expect(b"OCHK")
        else:
            block.skip(first)
        while block.left - 4 >= 4 + ordered:
            kind, size, message_flags = block.uint(1), block.uint(2), block.uint(1)
            block.skip(ordered)
            body_at = place + block.position
            message = Message(kind, block.take(size), body_at, False)
            _add(image, message, message_flags, messages, blocks)
    return messages


def _add(
    image: Image,
    message: Message,
    flags: int,
    messages: list[Message],
    blocks: list[tuple[int, int]],
) -> None:
    """Keep a message, or go on where it says that the header goes on."""
    image.spend(0)
    if message.kind == CONTINUED:
        cursor = message.cursor(image)
        blocks.append((cursor.offset(), cursor.length()))
    elif message.kind not in _KNOWN and flags & _MUST_KNOW:
        raise image.unknown(f"a message of the kind {message.kind:#x}")
    elif message.kind != _NIL:
        shared = bool(flags & _SHARED)
        messages.append(Message(message.kind, message.body, message.address, shared))
    if len(messages) + len(blocks) > _MOST_MESSAGES:
        raise UntrustedError(f"{image.source.name} has an object of too many parts")


def _check_sum(image: Image, data: bytes, expected: int, what: str) -> None:
    image.spend(16 * len(data))  # the checksum is ours, and Python is slow
    if lookup3(data) != expected:
        raise image.damaged(f"the checksum of a {what} does not match: restore it from a backup")


def resolved(image: Image, message: Message) -> Cursor:
    """What a message says, wherever it lies: several datasets may share one type."""
    if not message.shared:
        return message.cursor(image)
    cursor = message.cursor(image)
    version = cursor.version("a shared message", (1, 2, 3))
    kind = cursor.uint(1)
    if version == 1:
        cursor.skip(6)
    elif kind == 1:
        raise image.unknown("messages in a heap of their own")
    for other in read_header(image, cursor.offset()):
        if other.kind == message.kind and not other.shared:
            return other.cursor(image)
    raise image.damaged("a shared message is not where it should be")
