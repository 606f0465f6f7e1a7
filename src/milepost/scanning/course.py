"""How far Python would go through pickles, before it ends or fails.

An operation that takes more from the stack than there is makes Python give up. So a file is told
from a pickle: few texts, and hardly any numbers, go far as one.

https://github.com/python/cpython/blob/main/Lib/pickletools.py
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field

from milepost.encodings.pickle_opcodes import Reader, operations
from milepost.errors import DamagedError
from milepost.source import ByteSource, read_exactly

_OPERATIONS = {operation.name: operation for operation in pickletools.opcodes}
_CODES = frozenset(ord(operation.code) for operation in pickletools.opcodes)
_CALLS = frozenset({"REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "BUILD"})
# The operations whose line may be longer than the reader takes, and Python goes on.
_LONG_LINES = b"VSP"


@dataclass(slots=True)
class Course:
    """What became of the pickles that a file begins with.

    Attributes:
        stops: where they came to their ends.
        end: where Python would stop, or what is looked into ends.
        calls: whether anything was called.
        is_whole: whether Python could not go further either.
    """

    stops: list[int] = field(default_factory=list)
    end: int = 0
    calls: bool = False
    is_whole: bool = True


def course_of(source: ByteSource, limit: int) -> Course:
    """How far Python would go through the pickles at the start of a file."""
    course, stack = Course(), _Depth()
    reader = Reader(source, 0, limit)
    try:
        for offset, name, _ in operations(reader):
            if not stack.follow(name):
                return course
            course.end = reader.position
            course.calls |= name in _CALLS
            if name == "STOP":
                course.stops.append(offset)
    except DamagedError:
        course.is_whole = _is_over(source, course.end, limit)
    return course


def _is_over(source: ByteSource, end: int, limit: int) -> bool:
    """Whether Python, too, finds nothing valid at `end`."""
    if end >= source.size:
        return True
    code = bytes(read_exactly(source, end, 1))[0]
    return code not in _CODES or (source.size <= limit and code not in _LONG_LINES)


class _Depth:
    """How much is on a pickle's stack, and where its marks are."""

    def __init__(self) -> None:
        self._depth = 0
        self._marks: list[int] = []

    def follow(self, name: str) -> bool:
        """Do what an operation does to the stack; False if there is too little on it."""
        operation = _OPERATIONS.get(name)
        before = [] if operation is None else operation.stack_before
        after = 1 if operation is None else len(operation.stack_after)
        if name == "MARK":
            self._marks.append(self._depth)
            return True
        if name == "POP" and self._marks and self._marks[-1] == self._depth:
            self._marks.pop()
            return True
        if pickletools.markobject in before:
            if not self._marks:
                return False
            inside = self._depth - self._marks[-1]
            self._depth = self._marks.pop()
            if name == "OBJ" and not inside:
                return False
            before = before[: before.index(pickletools.markobject)]
        if self._depth - (self._marks[-1] if self._marks else 0) < len(before):
            return False
        self._depth += after - len(before)
        if name == "STOP":  # another pickle begins with nothing
            self._depth, self._marks = 0, []
        return True
