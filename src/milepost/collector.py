"""Python's garbage collector, and the many small objects that describe a large state.

Each time that their number has grown by a quarter, the collector looks at all objects of the
program: where a state has 100,000 leaves, that is half the time of a save or a restore.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator


class _Pauses:
    """How many blocks have it paused."""

    def __init__(self) -> None:
        self._turn = threading.RLock()  # reentrant: a signal's handler may save, too
        self._count = 0
        self._was_enabled = False

    def begin(self) -> None:
        with self._turn:
            if self._count == 0:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._count += 1

    def end(self) -> None:
        with self._turn:
            self._count -= 1
            if self._count == 0 and self._was_enabled:
                gc.enable()


_PAUSES = _Pauses()


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """No collections during the block, in any thread: for no longer than a caller waits."""
    _PAUSES.begin()
    try:
        yield
    finally:
        _PAUSES.end()
