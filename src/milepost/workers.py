"""A few threads that do jobs in the order in which they were given.

`concurrent.futures.ThreadPoolExecutor` takes no more jobs once the interpreter begins to
exit, and that is when the last background save may still be writing.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

JOB_BYTES = 1 << 22  # of less than so much, handing it to a thread costs more than it saves
P = ParamSpec("P")
T = TypeVar("T")
_Job = Callable[[], None]


class Workers:
    """Threads, as many as there are jobs for, up to a limit. A context manager.

    All jobs are done at the end of the block.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._cancelled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def submit(
        self, function: Callable[P, T], /, *arguments: P.args, **options: P.kwargs
    ) -> Future[T]:
        """Let a thread call the function; its result is that of the future."""
        future: Future[T] = Future()

        def job() -> None:
            if self._cancelled:
                future.cancel()
                return
            try:
                future.set_result(function(*arguments, **options))
            except BaseException as error:
                future.set_exception(error)

        self._jobs.put(job)
        if len(self._threads) < self._most:
            self._threads.append(threading.Thread(target=self._work, name=self._name))
            self._threads[-1].start()
        return future

    def cancel(self) -> None:
        """Do no job that is not begun."""
        self._cancelled = True

    def _work(self) -> None:
        job: Any
        while (job := self._jobs.get()) is not None:
            job()


class Countdown:
    """Calls a function when so many parts of its work are done, by whatever threads."""

    def __init__(self, count: int, done: Callable[[], object]) -> None:
        self._left, self._done = count, done
        self._turn = threading.Lock()

    def one(self) -> None:
        """One more is done."""
        with self._turn:
            self._left -= 1
            last = self._left == 0
        if last:
            self._done()


def give_way() -> None:
    """Let this thread, and those that it starts, run when nobody else would.

    Where the system has no priorities for threads (only Linux has), nothing changes.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def jobs(
    items: Iterable[T], nbytes: Callable[[T], int], least: int = JOB_BYTES
) -> Iterator[list[T]]:
    """Items that follow one another, in groups that are worth handing to a thread."""
    job: list[T] = []
    size = 0
    for item in items:
        job.append(item)
        size += nbytes(item)
        if size >= least:
            yield job
            job, size = [], 0
    if job:
        yield job
