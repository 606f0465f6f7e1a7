"""Pickles: everything that they name, with the offset of the operation that does."""

from __future__ import annotations

import re
from collections.abc import Iterator

from milepost.encodings.pickle import globals_in
from milepost.encodings.pickle_opcodes import Reader, operations
from milepost.errors import DamagedError
from milepost.scanning.globals import judged
from milepost.scanning.report import Finding, Severity
from milepost.source import ByteSource, read_exactly

# Of a file that begins with a pickle, this much is looked into; what follows are numbers.
_MOST_READ = 64 << 20
# The operations that a pickle without a header, of protocol 0 or 1, can begin with.
_NAME = re.compile(r"[\w.]+")
_FIRST = frozenset(b"(]}c)ISVLNFUXTKJMGBi")
# PyTorch's older format: a number as its mark, and four more pickles before the tensors' bytes.
_TORCH_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_TORCH_PICKLES = 5


def looks_like_pickle(start: bytes) -> bool:
    """Whether a file that begins so has the header of a pickle of protocol 2 or newer."""
    return len(start) > 1 and start[0] == 0x80 and 2 <= start[1] <= 10


def scan_pickles(source: ByteSource, where: str) -> Iterator[Finding]:
    """Everything that the pickles at the start of a file name, but for plain data."""
    data = bytes(read_exactly(source, 0, min(source.size, _MOST_READ)))
    stops = _stops(source, len(data))
    if data.startswith(_TORCH_LEGACY) and len(stops) >= _TORCH_PICKLES:
        data = data[: stops[_TORCH_PICKLES - 1] + 1]  # numbers follow, which may look like anything
    yield from _named(data, where)
    if not stops:
        yield Finding(
            Severity.UNREADABLE, where, "a pickle", "does not end: what it does cannot be told"
        )


def scan_old_pickle(source: ByteSource, where: str, start: bytes) -> Iterator[Finding] | None:
    """As `scan_pickles`, of one without a header; None if the file is none."""
    if not start or start[0] not in _FIRST or source.size > _MOST_READ:
        return None
    data = bytes(read_exactly(source, 0, source.size))
    names = any(_NAME.fullmatch(f"{g.module}.{g.name}") for g in globals_in(data))
    if not _stops(source, len(data)) and not names:
        return None
    return _named(data, where)


def _named(data: bytes, where: str) -> Iterator[Finding]:
    seen: set[str] = set()
    for name in globals_in(data):
        found = judged(name)
        # One that is named a thousand times is told of once, where it is first.
        if found is not None and str(name) not in seen:
            seen.add(str(name))
            yield Finding(found[0], where, str(name), found[1], name.offset)


def _stops(source: ByteSource, limit: int) -> list[int]:
    """Where the pickles that a file begins with come to their ends."""
    found: list[int] = []
    try:
        for offset, name, _ in operations(Reader(source, 0, limit)):
            if name == "STOP":
                found.append(offset)
    except DamagedError:
        pass  # what is behind the last of them
    return found
