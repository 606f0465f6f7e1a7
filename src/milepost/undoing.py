"""Putting back what a block changes for a while, whatever comes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def undoing(undo: Callable[[], object]) -> Iterator[None]:
    """Calls `undo` at the end of the block, and once more if that was interrupted.

    So it has to do no harm when there is nothing to undo. Change things inside the block: an
    interrupt may come before it has begun.
    """
    try:
        yield
    finally:
        try:
            undo()
        except BaseException:  # Ctrl-C, or another signal
            undo()
            raise
