"""Saves that go on while training does."""

from __future__ import annotations

import atexit
import os
import sys

from milepost.errors import MilepostError
from milepost.staging import Transfer
from milepost.store import SaveReport


class BackgroundSave:
    """A save that has begun. The objects may change: what they held is copied already.

    If it fails, the next save of the same checkpoint raises its error, or `wait`, whichever
    comes first; at the latest the end of the program, which then has the exit status 1.
    """

    def __init__(self, transfer: Transfer[SaveReport], step: int) -> None:
        self.step = step
        self._transfer = transfer
        self._told = False
        _unfinished.add(self)

    def __repr__(self) -> str:
        state = "under way" if not self.done else "failed" if self._transfer.failed else "done"
        return f"<BackgroundSave of step {self.step}: {state}>"

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._transfer.done

    def wait(self) -> SaveReport:
        """Wait until the checkpoint is committed.

        Raises whatever the save failed with: as `Checkpoint.save`.
        """
        self._transfer.settle()
        _unfinished.discard(self)
        self._told = True
        return self._transfer.result()

    def raise_if_failed(self) -> None:
        """Wait, and raise what the save failed with, unless it was raised before."""
        if not self._told:
            self.wait()


# Held until somebody knows how each has ended.
_unfinished: set[BackgroundSave] = set()


@atexit.register
def _tell() -> None:
    """At exit: no save fails unnoticed. The interpreter has waited for the threads by then."""
    failed = False
    for save in sorted(_unfinished, key=lambda save: save.step):
        try:
            save.wait()
        except BaseException as error:
            failed = True
            kind = "" if isinstance(error, MilepostError) else f"{type(error).__name__}: "
            sys.stderr.write(
                f"milepost: the background save of step {save.step} failed: {kind}{error}\n"
            )
    if failed:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(1)  # nothing else that is called at exit can change the status any more
