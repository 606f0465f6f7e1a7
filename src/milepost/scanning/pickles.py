"""Pickles: everything that they name, with the offset of the operation that does."""

from __future__ import annotations

from collections.abc import Iterator

from milepost.encodings.pickle import globals_in
from milepost.scanning.course import Course, course_of
from milepost.scanning.globals import judged
from milepost.scanning.report import Finding, Severity
from milepost.source import ByteSource, read_exactly

# Of a file that begins with a pickle, this much is looked into; what follows are numbers.
_MOST_READ = 64 << 20
# The operations that a pickle can begin with: those that need nothing on the stack. Python takes
# those of newer protocols without a header, too.
_FIRST = frozenset(b"(]}c)ISVLNFUXTKJMGBCP") | frozenset((*range(0x80, 0x81), *range(0x82, 0x85),
    *range(0x88, 0x90), 0x95, 0x96, 0x97))  # fmt: skip
# PyTorch's older format: a number as its mark, and four more pickles before the tensors' bytes.
_TORCH_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_TORCH_PICKLES = 5
# Members of archives that are pickles, whatever they look like.
_PICKLE_NAMES = (".pkl", ".pickle")


def looks_like_pickle(start: bytes) -> bool:
    """Whether a file that begins so has the header of a pickle of protocol 2 or newer."""
    return len(start) > 1 and start[0] == 0x80 and 2 <= start[1] <= 10


def scan_pickles(source: ByteSource, where: str, *, known: bool) -> Iterator[Finding]:
    """Everything that the pickles at the start of a file name, but for plain data.

    Of a file that some format `known`, or a part of one, may be numbers that look like a pickle.
    """
    course = course_of(source, _MOST_READ)
    start = bytes(read_exactly(source, 0, min(len(_TORCH_LEGACY), source.size)))
    legacy = start == _TORCH_LEGACY and len(course.stops) >= _TORCH_PICKLES
    end = course.stops[_TORCH_PICKLES - 1] + 1 if legacy else course.end
    yield from _named(source, end, where)
    if legacy:
        return  # numbers follow, which may look like anything
    if not course.is_whole:
        why = "is larger than what is looked into: what it does cannot be told"
        yield Finding(Severity.UNREADABLE, where, "a pickle", why)
    elif not known or where.endswith(_PICKLE_NAMES):
        yield from _unfinished(source, course, where)


def scan_old_pickle(
    source: ByteSource, where: str, start: bytes, *, known: bool
) -> Iterator[Finding] | None:
    """As `scan_pickles`, of one without a header; None if the file is none."""
    if not start or start[0] not in _FIRST:
        return None
    course = course_of(source, _MOST_READ)
    strict = not known or where.endswith(_PICKLE_NAMES)
    if course.stops or course.calls or (strict and not course.is_whole):
        return scan_pickles(source, where, known=known)
    return None


def _unfinished(source: ByteSource, course: Course, where: str) -> Iterator[Finding]:
    if not course.stops:
        why = "does not end: what it does cannot be told"
        yield Finding(Severity.UNREADABLE, where, "a pickle", why)
    elif course.stops[-1] + 1 != source.size:
        why = f"ends at byte {course.stops[-1] + 1}, and what follows is of no kind known here"
        yield Finding(Severity.UNREADABLE, where, "a pickle", why)


def _named(source: ByteSource, end: int, where: str) -> Iterator[Finding]:
    seen: set[str] = set()
    for name in globals_in(bytes(read_exactly(source, 0, end))):
        found = judged(name)
        # One that is named a thousand times is told of once, where it is first.
        if found is not None and str(name) not in seen:
            seen.add(str(name))
            yield Finding(found[0], where, str(name), found[1], name.offset)
