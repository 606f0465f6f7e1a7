"""Pickles as a sequence of operations, of all protocols.

https://github.com/python/cpython/blob/main/Lib/pickletools.py
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeAlias

from milepost.errors import DamagedError
from milepost.source import ByteSource, read_exactly

# An operation's argument: none, a number, the bytes of a line, of two lines, or of a string.
Argument: TypeAlias = int | float | bytes | tuple[bytes, bytes] | None

PROTOCOL = 5
_BLOCK = 1 << 16
_MAX_LINE = 1 << 20

# How an argument lies there: "" nothing, "line", "lines", a format of `struct` for a number,
# or one with `*` behind it for the length of the bytes that follow.
_OPCODES = {
    b"(": ("MARK", ""),
    b".": ("STOP", ""),
    b"0": ("POP", ""),
    b"1": ("POP_MARK", ""),
    b"2": ("DUP", ""),
    b"F": ("FLOAT", "line"),
    b"I": ("INT", "line"),
    b"J": ("BININT", "<i"),
    b"K": ("BININT", "<B"),
    b"L": ("LONG", "line"),
    b"M": ("BININT", "<H"),
    b"N": ("NONE", ""),
    b"P": ("PERSID", "line"),
    b"Q": ("BINPERSID", ""),
    b"R": ("REDUCE", ""),
    b"S": ("STRING", "line"),
    b"T": ("BINSTRING", "<i*"),
    b"U": ("BINSTRING", "<B*"),
    b"V": ("UNICODE", "line"),
    b"X": ("BINUNICODE", "<I*"),
    b"a": ("APPEND", ""),
    b"b": ("BUILD", ""),
    b"c": ("GLOBAL", "lines"),
    b"d": ("DICT", ""),
    b"}": ("EMPTY_DICT", ""),
    b"e": ("APPENDS", ""),
    b"g": ("GET", "line"),
    b"h": ("BINGET", "<B"),
    b"i": ("INST", "lines"),
    b"j": ("BINGET", "<I"),
    b"l": ("LIST", ""),
    b"]": ("EMPTY_LIST", ""),
    b"o": ("OBJ", ""),
    b"p": ("PUT", "line"),
    b"q": ("BINPUT", "<B"),
    b"r": ("BINPUT", "<I"),
    b"s": ("SETITEM", ""),
    b"t": ("TUPLE", ""),
    b")": ("EMPTY_TUPLE", ""),
    b"u": ("SETITEMS", ""),
    b"G": ("BINFLOAT", ">d"),
    b"B": ("BINBYTES", "<I*"),
    b"C": ("BINBYTES", "<B*"),
    b"\x80": ("PROTO", "<B"),
    b"\x81": ("NEWOBJ", ""),
    b"\x82": ("EXT", "<B"),
    b"\x83": ("EXT", "<H"),
    b"\x84": ("EXT", "<i"),
    b"\x85": ("TUPLE1", ""),
    b"\x86": ("TUPLE2", ""),
    b"\x87": ("TUPLE3", ""),
    b"\x88": ("NEWTRUE", ""),
    b"\x89": ("NEWFALSE", ""),
    b"\x8a": ("BINLONG", "<B*"),
    b"\x8b": ("BINLONG", "<i*"),
    b"\x8c": ("BINUNICODE", "<B*"),
    b"\x8d": ("BINUNICODE", "<Q*"),
    b"\x8e": ("BINBYTES", "<Q*"),
    b"\x8f": ("EMPTY_SET", ""),
    b"\x90": ("ADDITEMS", ""),
    b"\x91": ("FROZENSET", ""),
    b"\x92": ("NEWOBJ_EX", ""),
    b"\x93": ("STACK_GLOBAL", ""),
    b"\x94": ("MEMOIZE", ""),
    b"\x95": ("FRAME", "<Q"),
    b"\x96": ("BYTEARRAY", "<Q*"),
    b"\x97": ("NEXT_BUFFER", ""),
    b"\x98": ("READONLY_BUFFER", ""),
}
_TABLE = {
    code[0]: (name, kind, struct.Struct(kind.rstrip("*")) if kind[:1] in "<>" and kind else None)
    for code, (name, kind) in _OPCODES.items()
}


class Reader:
    """The bytes of a file from a place on, block by block, at most `limit` of them."""

    def __init__(self, source: ByteSource, start: int, limit: int) -> None:
        self.source = source
        self._end = min(source.size, start + limit)
        self._cut = self._end < source.size
        self._block, self._at, self._base = b"", 0, start

    @property
    def position(self) -> int:
        return self._base + self._at

    def take(self, length: int) -> bytes:
        """So many bytes.

        Raises:
            DamagedError: there are fewer.
        """
        end = self._at + length
        if length < 0 or end > len(self._block):
            return self._take_more(length)
        data = self._block[self._at : end]
        self._at = end
        return data

    def _take_more(self, length: int) -> bytes:
        position = self.position
        if length < 0 or position + length > self._end:
            why = "is too large to be a model's" if self._cut else "is cut short"
            raise DamagedError(
                f"{self.source.name}: its pickle {why}: {length} bytes are expected at offset "
                f"{position}"
            )
        wanted = min(max(length, _BLOCK), self._end - position)
        block = bytes(read_exactly(self.source, position, wanted))
        if length > _BLOCK:
            self._block, self._at, self._base = b"", 0, position + length
            return block
        self._block, self._at, self._base = block, length, position
        return block[:length]

    def line(self) -> bytes:
        """The bytes up to the next newline, without it."""
        parts = []
        for _ in range(_MAX_LINE // _BLOCK):
            end = self._block.find(b"\n", self._at)
            if end >= 0:
                parts.append(self._block[self._at : end])
                self._at = end + 1
                return b"".join(parts)
            parts.append(self._block[self._at :])
            self._base, self._block, self._at = self._base + len(self._block), b"", 0
            self.take(1)  # fills the block
            self._at = 0
        raise DamagedError(f"{self.source.name}: its pickle has a line without an end")


def operations(reader: Reader) -> Iterator[tuple[int, str, Argument]]:
    """The offset, name and argument of each operation, for as long as they are asked for.

    Those that do the same with arguments of several sizes have one name.

    Raises:
        DamagedError: there is no such operation, or the bytes end.
    """
    take, table = reader.take, _TABLE
    while True:
        offset = reader.position
        found = table.get(take(1)[0])
        if found is None:
            raise DamagedError(f"{reader.source.name}: its pickle is not valid at offset {offset}")
        name, kind, number = found
        if number is not None:
            value = number.unpack(take(number.size))[0]
            yield offset, name, take(value) if kind[-1] == "*" else value
        elif not kind:
            yield offset, name, None
        elif kind == "line":
            yield offset, name, reader.line()
        else:
            yield offset, name, (reader.line(), reader.line())
