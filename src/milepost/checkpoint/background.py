"""What goes on while training does: saves, and compaction."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import Protocol

from milepost.errors import MilepostError
from milepost.staging import Transfer
from milepost.storage.base import Storage
from milepost.store import Compaction, SaveReport, Store
from milepost.workers import give_way


class _Job(Protocol):
    """Something that may fail unseen."""

    @property
    def title(self) -> str: ...

    def raise_if_failed(self) -> None: ...


class BackgroundSave:
    """A save that has begun. The objects may change: what they held is copied already.

    If it fails, the next save of the same checkpoint raises its error, or `wait`, whichever
    comes first; at the latest the end of the program, which then has the exit status 1.
    """

    def __init__(self, transfer: Transfer[SaveReport], step: int) -> None:
        self.step = step
        self.title = f"save of step {step}"
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


class BackgroundCompaction:
    """Compacts a store now and then, in a thread that gives way to everybody else's.

    The end of the program does not wait for it: what is under way is left as it was.
    """

    def __init__(self, storage: Storage) -> None:
        self.title = f"compaction of {storage.name}"
        self._storage = storage
        self._saves = _SAVES  # what earlier runs have left is compacted soon
        self._compaction: Compaction | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def saved(self) -> None:
        """A checkpoint was committed: after some of them the store is compacted."""
        self._saves += 1
        is_running = self._thread is not None and self._thread.is_alive()
        if self._saves < _SAVES or is_running or self._stopped.is_set():
            return
        self._saves = 0
        _unfinished.add(self)
        # No daemon: these are cut off in the midst of things when the interpreter ends.
        self._thread = threading.Thread(target=self._run, name="milepost-compact")
        self._thread.start()

    def _run(self) -> None:
        give_way()
        try:
            if self._compaction is None:
                store = Store.open(self._storage)
                self._compaction = Compaction(store, threads=1, stopped=self._is_stopped)
            self._compaction.run()
            _unfinished.discard(self)
        except BaseException as error:
            self._error, self._compaction = error, None

    def _is_stopped(self) -> bool:
        return self._stopped.is_set() or not threading.main_thread().is_alive()

    def raise_if_failed(self) -> None:
        """Raise what the last compaction failed with, once."""
        error, self._error = self._error, None
        if error is not None:
            _unfinished.discard(self)
            raise error

    def stop(self) -> None:
        """Let it end soon, and wait for that; raises what it failed with."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        self.raise_if_failed()


# So many saves are compacted together: each has neighbours on both sides then.
_SAVES = 8
# Held until somebody knows how each has ended.
_unfinished: set[_Job] = set()


@atexit.register
def _tell() -> None:
    """At exit: nothing fails unnoticed. The interpreter has waited for the threads by then."""
    failed = False
    for job in sorted(_unfinished, key=lambda job: job.title):
        try:
            job.raise_if_failed()
        except BaseException as error:
            failed = True
            kind = "" if isinstance(error, MilepostError) else f"{type(error).__name__}: "
            sys.stderr.write(f"milepost: the background {job.title} failed: {kind}{error}\n")
    if failed:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(1)  # nothing else that is called at exit can change the status any more
