"""Pickles, read as what they say and never as what they do.

A pickle is a program that names functions and calls them. Here it is run on symbols: what it
names becomes a `Global`, what it would call a `Call`, and neither is ever looked for. What
known calls stand for (a tensor, an ordered dict) the caller's `build` knows.

    def build(node):                       # a Call or a PersistentId
        if isinstance(node, Call) and str(node.function) == "collections.OrderedDict":
            return {}                      # its items follow, as for any dict
        return node                        # unknown: stays a symbol

    value = interpret(data, build)

Values are dicts, lists, tuples, sets, frozensets, str, int, float, bytes, bytearrays, bools,
None, the three symbols, and what `build` made. They may be shared, nested without end, and
refer to themselves: who walks them has to count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from milepost.encodings.pickle_machine import Build, Call, Global, Machine, PersistentId
from milepost.encodings.pickle_opcodes import Argument, Reader, operations
from milepost.errors import DamagedError
from milepost.limits import shown
from milepost.source import ByteSource

__all__ = [
    "Build",
    "Call",
    "Global",
    "PersistentId",
    "described",
    "globals_in",
    "interpret",
    "read_pickle",
]

_MAX_BYTES = 128 << 20
# What a copyreg extension code is called by `globals_in`: the registry alone knows the name.
EXTENSION = "copyreg.extension"


@dataclass(frozen=True, slots=True)
class _Bytes:
    """Bytes in memory, as a source."""

    name: str
    data: bytes | memoryview

    @property
    def size(self) -> int:
        return len(self.data)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        part = self.data[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        """There is nothing to close."""


def interpret(data: bytes, build: Build, name: str = "a pickle") -> object:
    """The value of a pickle, which messages call `name`; what is behind it is not looked at.

    Raises:
        DamagedError: it is not valid.
        UntrustedError: it is made to exhaust its reader, or names what only a process knows.
        VersionError: it is of a newer protocol.
    """
    return read_pickle(_Bytes(name, data), 0, build)[0]


def read_pickle(source: ByteSource, offset: int, build: Build) -> tuple[object, int]:
    """The value of the pickle at an offset of a file, and where it ends; raises as `interpret`."""
    reader = Reader(source, offset, _MAX_BYTES)
    return Machine(reader, build).run(), reader.position


def described(value: object) -> str:
    """A value of a pickle for a message. Containers have no `repr` here: theirs may never end."""
    if isinstance(value, Global):
        return f"{value!s:.200}"
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return shown(value)
    return f"a {type(value).__name__}"


def globals_in(data: bytes) -> Iterator[Global]:
    """Everything that a pickle names, and all pickles behind it, whether it is used or not.

    It goes on for as long as there are operations, whatever they do to one another: what
    comes before the first invalid one would be run by Python.
    """
    reader = Reader(_Bytes("a pickle", data), 0, len(data))
    tracker = _Tracker()
    try:
        for offset, name, argument in operations(reader):
            yield from tracker.follow(offset, name, argument)
    except DamagedError:
        return  # Python stops here, too


_UNKNOWN = None
_TAKEN = {"REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3, "BUILD": 2, "APPEND": 2, "SETITEM": 3}
_TAKEN |= {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "BINPERSID": 1, "READONLY_BUFFER": 1}
_FROM_MARK = {"LIST", "TUPLE", "DICT", "FROZENSET", "OBJ", "INST"}
_INTO_BELOW_MARK = {"APPENDS", "SETITEMS", "ADDITEMS"}
_QUIET = {"PROTO", "FRAME"}
_MARK = object()


class _Tracker:
    """The stack and the memo of a pickle, as far as they have texts: two of them name a global."""

    def __init__(self) -> None:
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}

    def follow(self, offset: int, name: str, argument: Argument) -> Iterator[Global]:
        """Do to the stack what an operation does; gives the global that it names."""
        stack = self._stack
        if name in ("GLOBAL", "INST") and isinstance(argument, tuple):
            module, attribute = (part.decode("utf-8", "replace") for part in argument)
            yield Global(module, attribute, offset)
        elif name == "EXT":
            yield Global(EXTENSION, str(argument), offset)
        elif name == "STACK_GLOBAL":
            texts = [self._pop(), self._pop()]
            yield Global(_shown(texts[1]), _shown(texts[0]), offset)
        if name == "STOP":
            stack.clear()
            self._memo.clear()
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("POP", "POP_MARK"):
            self._pop() if name == "POP" else self._pop_mark()
        elif name == "DUP":
            stack.append(stack[-1] if stack else _UNKNOWN)
        elif name in ("PUT", "BINPUT", "MEMOIZE"):
            index = len(self._memo) if name == "MEMOIZE" else _index(argument)
            self._memo[index] = stack[-1] if stack else _UNKNOWN
        elif name in ("GET", "BINGET"):
            stack.append(self._memo.get(_index(argument), _UNKNOWN))
        elif name in ("BINUNICODE", "UNICODE", "STRING", "BINSTRING") and isinstance(
            argument, bytes
        ):
            stack.append(_decoded(name, argument))
        elif name not in _QUIET:
            self._generic(name)

    def _generic(self, name: str) -> None:
        if name in _FROM_MARK or name in _INTO_BELOW_MARK:
            self._pop_mark()
        for _ in range(_TAKEN.get(name, 0)):
            self._pop()
        if name not in _INTO_BELOW_MARK:
            self._stack.append(_UNKNOWN)

    def _pop(self) -> object:
        return self._stack.pop() if self._stack else _UNKNOWN

    def _pop_mark(self) -> None:
        while self._stack and self._stack.pop() is not _MARK:
            pass


def _index(argument: Argument) -> int:
    if isinstance(argument, bytes):
        try:  # as Python: " 5" and "+5" are 5, too
            return int(argument)
        except ValueError:
            return -1
    return argument if isinstance(argument, int) else -1


def _decoded(name: str, data: bytes) -> str:
    if name == "UNICODE":
        return data.decode("raw-unicode-escape", "replace")
    if name == "STRING":
        return data.strip()[1:-1].decode("unicode-escape", "replace")
    return data.decode("utf-8", "replace")


def _shown(value: object) -> str:
    """A part of a name; "?" if only running the pickle would tell."""
    return value if isinstance(value, str) else "?"
