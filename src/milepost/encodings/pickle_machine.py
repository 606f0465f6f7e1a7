"""The machine that a pickle is a program of, working on symbols: nothing is imported or called."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from milepost.encodings.pickle_opcodes import PROTOCOL, Argument, Reader, operations
from milepost.errors import DamagedError, UntrustedError, VersionError

# What it costs to interpret so many is some seconds and 300 MB; a model of 20,000 tensors
# with its optimizer has less than half of them.
_MAX_OPERATIONS = 2_000_000
_MAX_SETS = 250_000  # each is as large as four other containers
_MAX_MARKS = 10_000
_MAX_INTEGER_BYTES = 1024
# NumPy and PyTorch hash tuples of numbers without a secret, so keys can be made to collide.
_MAX_TUPLE_KEYS, _MAX_KEY_ITEMS = 1_000, 16
_END = object()  # of the operations
_SIMPLE = (str, bytes, float, bool, type(None))


@dataclass(frozen=True, slots=True)
class Global:
    """Something that the pickle names; it is never looked for."""

    module: str
    name: str
    offset: int = field(compare=False)

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Call:
    """What calling something would make, and what would be done to it afterwards.

    Attributes:
        function: what is called: a `Global`, or anything else that a hostile file has there.
        new: whether it is only `function.__new__`, as for an object whose state follows.
        items: what would be appended or added.
        pairs: the (key, value)s that would be set.
        state: what its attributes would become; None if nothing is said.
    """

    function: object
    args: tuple[object, ...]
    kwargs: dict[object, object]
    new: bool
    offset: int
    items: list[object] = field(default_factory=list)
    pairs: list[tuple[object, object]] = field(default_factory=list)
    state: object = None


@dataclass(eq=False, slots=True)
class PersistentId:
    """What lies outside of the pickle, by the name that it has there."""

    value: object
    offset: int


# Turns a call, or a persistent id, into an object; or returns it as it is.
Build: TypeAlias = Callable[[Call | PersistentId], object]


class Machine:
    """Runs the operations of one pickle."""

    def __init__(self, reader: Reader, build: Build) -> None:
        self.label = reader.source.name
        self._reader = reader
        self._build = build
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, object] = {}
        self._offset = 0
        self._tuple_keys = self._sets = 0

    def run(self) -> object:
        """The value of the pickle.

        Raises:
            DamagedError: it is none.
            UntrustedError: it is one made to exhaust its reader.
            VersionError: of a newer protocol.
        """
        for count, (offset, name, argument) in enumerate(operations(self._reader)):
            self._offset = offset
            if count >= _MAX_OPERATIONS:
                raise UntrustedError(
                    f"{self.label}: its pickle has more than {_MAX_OPERATIONS:,} operations, "
                    "more than any model needs"
                )
            try:
                if name == "STOP":
                    return self._stack.pop()
                _ACTIONS[name](self, argument)
            except IndexError:
                raise self._damaged("takes more than there is") from None
            except (ValueError, TypeError, OverflowError) as error:
                if isinstance(error, UntrustedError):
                    raise
                raise self._damaged(f"is not valid ({error!s:.200})") from None
        raise AssertionError("operations end with an error")

    def _damaged(self, problem: str) -> DamagedError:
        return DamagedError(f"{self.label}: its pickle {problem} at offset {self._offset}")

    # The stack

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _mark(self, _: Argument) -> None:
        if len(self._marks) >= _MAX_MARKS:
            raise self._damaged("is nested too deeply")
        self._marks.append(self._stack)
        self._stack = []

    def _above_mark(self) -> list[Any]:
        above = self._stack
        self._stack = self._marks.pop()
        return above

    def _pop(self, _: Argument) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._above_mark()

    def _pop_mark(self, _: Argument) -> None:
        self._above_mark()

    def _dup(self, _: Argument) -> None:
        self._stack.append(self._stack[-1])

    def _tuple(self, length: int) -> None:
        if len(self._stack) < length:
            raise IndexError
        values = tuple(self._stack[-length:])
        self._stack[-length:] = [values]

    # The memo

    def _put(self, index: int) -> None:
        if index < 0:
            raise ValueError("a negative index")
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        try:
            self._stack.append(self._memo[index])
        except KeyError:
            raise self._damaged(f"refers to what is not there, {index},") from None

    # Containers

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Call):
            target.items.extend(values)
        elif isinstance(target, list | bytearray):
            target.extend(values)
        elif isinstance(target, set):
            target.update(map(self._key, values))
        elif not _is_symbol(target):
            raise TypeError(f"{type(target).__name__} takes no items")

    def _set(self, values: list[Any]) -> None:
        target = self._stack[-1]
        pairs = self._pairs(values)
        if isinstance(target, dict):
            target.update((self._key(key), value) for key, value in pairs)
        elif isinstance(target, Call):
            target.pairs.extend(pairs)
        elif not _is_symbol(target):
            raise TypeError(f"{type(target).__name__} takes no items")

    def _pairs(self, values: list[Any]) -> list[tuple[Any, Any]]:
        if len(values) % 2:
            raise ValueError("a key without a value")
        return list(zip(values[::2], values[1::2], strict=True))

    def _new_dict(self, _: Argument) -> None:
        pairs = self._pairs(self._above_mark())
        self._push({self._key(key): value for key, value in pairs})

    def _new_set(self, _: Argument) -> None:
        self._sets += 1
        if self._sets > _MAX_SETS:
            raise self._damaged("has too many sets")
        self._push(set())

    def _frozenset(self, _: Argument) -> None:
        items = self._above_mark()
        self._new_set(None)
        self._stack[-1] = frozenset(map(self._key, items))

    def _key(self, value: Any) -> Any:
        """A value as a key: one whose hash takes no time, and can't be made that of another."""
        if isinstance(value, tuple):
            if len(value) > _MAX_KEY_ITEMS or any(isinstance(item, tuple) for item in value):
                raise self._damaged("has a long tuple as a key")
            if not all(isinstance(item, str | bytes) for item in value):
                self._tuple_keys += 1
                if self._tuple_keys > _MAX_TUPLE_KEYS:
                    raise self._damaged("has too many tuples as keys")
            return tuple(map(self._key, value))
        if isinstance(value, (*_SIMPLE, Global)) or _is_symbol(value):
            return value
        if isinstance(value, int) and value.bit_length() <= 64:
            return value
        raise TypeError(f"{type(value).__name__} is no key")

    # Objects

    def _global(self, names: tuple[bytes, bytes]) -> None:
        module, name = (part.decode() for part in names)
        self._push(Global(module, name, self._offset))

    def _stack_global(self, _: Argument) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise TypeError("the name of a global is no text")
        self._push(Global(module, name, self._offset))

    def _call(self, function: Any, args: Any, kwargs: Any = None, *, new: bool = False) -> None:
        kwargs = {} if kwargs is None else kwargs
        if not isinstance(args, tuple) or not isinstance(kwargs, dict):
            raise TypeError("the arguments of a call are no tuple")
        self._push(self._build(Call(function, args, kwargs, new, self._offset)))

    def _reduce(self, _: Argument) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        self._call(function, args)

    def _newobj(self, _: Argument) -> None:
        args, cls = self._stack.pop(), self._stack.pop()
        self._call(cls, args, new=True)

    def _newobj_ex(self, _: Argument) -> None:
        kwargs, args, cls = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self._call(cls, args, kwargs, new=True)

    def _inst(self, names: tuple[bytes, bytes]) -> None:
        args = tuple(self._above_mark())
        self._global(names)
        self._call(self._stack.pop(), args)

    def _obj(self, _: Argument) -> None:
        cls, *args = self._above_mark() or [_END]
        if cls is _END:
            raise IndexError
        self._call(cls, tuple(args))

    def _set_state(self, _: Argument) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, Call):
            target.state = state

    def _persistent(self, value: object) -> None:
        self._push(self._build(PersistentId(value, self._offset)))

    def _extension(self, code: int) -> None:
        raise UntrustedError(
            f"{self.label}: its pickle names a global by the extension code {code}, at offset "
            f"{self._offset}: no model needs that"
        )

    def _buffer(self, _: Argument) -> None:
        raise self._damaged("needs a buffer from outside of the file")

    def _protocol(self, version: int) -> None:
        if version > PROTOCOL:
            raise VersionError(
                f"{self.label}: its pickle is of protocol {version}, newer than {PROTOCOL}"
            )


def _is_symbol(value: object) -> bool:
    """Whether it is an object that knows no equality: what `build` makes may ignore its items."""
    own: object = type(value).__hash__
    return own is object.__hash__ and value is not None


def _integer(text: bytes) -> int | bool:
    if text in (b"00", b"01"):
        return text == b"01"
    if len(text) > 2 * _MAX_INTEGER_BYTES:
        raise ValueError("a huge number")
    return int(text.strip().removesuffix(b"L"))


def _binary_integer(data: bytes) -> int:
    if len(data) > _MAX_INTEGER_BYTES:
        raise ValueError("a huge number")
    return int.from_bytes(data, "little", signed=True)


def _text(data: bytes) -> str | bytes:
    """What Python 2 called a string: text if it can be, so that `encode` gives the bytes again."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _quoted(line: bytes) -> str | bytes:
    line = line.strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("a string without quotes")
    return _text(codecs.escape_decode(line[1:-1])[0])


def _pushed(convert: Callable[[Any], object]) -> Callable[[Machine, Any], None]:
    return lambda machine, argument: machine._push(convert(argument))


_Action: TypeAlias = Callable[[Machine, Any], None]
_ACTIONS: dict[str, _Action] = {
    "PROTO": Machine._protocol,
    "FRAME": lambda machine, _: None,
    "MARK": Machine._mark,
    "POP": Machine._pop,
    "POP_MARK": Machine._pop_mark,
    "DUP": Machine._dup,
    "NONE": _pushed(lambda _: None),
    "NEWTRUE": _pushed(lambda _: True),
    "NEWFALSE": _pushed(lambda _: False),
    "INT": _pushed(_integer),
    "LONG": _pushed(_integer),
    "BININT": _pushed(int),
    "BINLONG": _pushed(_binary_integer),
    "FLOAT": _pushed(float),
    "BINFLOAT": _pushed(float),
    "STRING": _pushed(_quoted),
    "BINSTRING": _pushed(_text),
    "UNICODE": _pushed(lambda line: line.decode("raw-unicode-escape")),
    "BINUNICODE": _pushed(lambda data: data.decode("utf-8", "surrogatepass")),
    "BINBYTES": _pushed(bytes),
    "BYTEARRAY": _pushed(bytearray),
    "EMPTY_LIST": _pushed(lambda _: []),
    "EMPTY_DICT": _pushed(lambda _: {}),
    "EMPTY_TUPLE": _pushed(lambda _: ()),
    "EMPTY_SET": Machine._new_set,
    "LIST": lambda machine, _: machine._push(machine._above_mark()),
    "TUPLE": lambda machine, _: machine._push(tuple(machine._above_mark())),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "DICT": Machine._new_dict,
    "FROZENSET": Machine._frozenset,
    "APPEND": lambda machine, _: machine._append([machine._stack.pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._above_mark()),
    "ADDITEMS": lambda machine, _: machine._append(machine._above_mark()),
    "SETITEM": lambda machine, _: machine._set([machine._stack.pop(), machine._stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine._set(machine._above_mark()),
    "PUT": lambda machine, line: machine._put(_integer(line)),
    "BINPUT": Machine._put,
    "MEMOIZE": lambda machine, _: machine._put(len(machine._memo)),
    "GET": lambda machine, line: machine._get(_integer(line)),
    "BINGET": Machine._get,
    "GLOBAL": Machine._global,
    "STACK_GLOBAL": Machine._stack_global,
    "INST": Machine._inst,
    "OBJ": Machine._obj,
    "REDUCE": Machine._reduce,
    "NEWOBJ": Machine._newobj,
    "NEWOBJ_EX": Machine._newobj_ex,
    "BUILD": Machine._set_state,
    "PERSID": lambda machine, line: machine._persistent(line.decode()),
    "BINPERSID": lambda machine, _: machine._persistent(machine._stack.pop()),
    "EXT": Machine._extension,
    "NEXT_BUFFER": Machine._buffer,
    "READONLY_BUFFER": lambda machine, _: None,
}
