"""Python's garbage collector, and the many small objects that describe a large state.

Each time that their number has grown by a quarter, the collector looks at all objects of the
program: where a state has 100,000 leaves, that is half the time of a save or a restore.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

from milepost.undoing import undoing


class _Pauses:
    """The blocks that have it paused. Both methods may be interrupted, and called again."""

    def __init__(self) -> None:
        self._turn = threading.RLock()  # reentrant: a signal's handler may save, too
        self._pauses: set[object] = set()
        self._was_enabled = False

    def begin(self, pause: object) -> None:
        with self._turn:
            if not self._pauses:
                self._was_enabled = gc.isenabled()
            self._pauses.add(pause)
            gc.disable()

    def end(self, pause: object) -> None:
        with self._turn:
            self._pauses.discard(pause)
            if not self._pauses and self._was_enabled:
                gc.enable()


_PAUSES = _Pauses()


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """No collections during the block, in any thread: for no longer than a caller waits."""
    pause = object()
    with undoing(lambda: _PAUSES.end(pause)):
        _PAUSES.begin(pause)
        yield
