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
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import ParamSpec, Self, TypeAlias, TypeVar

JOB_BYTES = 1 << 22  # of less than so much, handing it to a thread costs more than it saves
P = ParamSpec("P")
T = TypeVar("T")
# Jobs, and what stands for their end.
_Queue: TypeAlias = queue.SimpleQueue[Callable[[], object]]


class Workers:
    """Threads, as many as there are jobs for, up to a limit. A context manager.

    All jobs are done at the end of the block. If it fails, or is interrupted (by Ctrl-C, or by
    another signal whose handler raises), those that are not begun are cancelled, and no job
    goes on once the block is left.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._jobs: _Queue = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._turns: list[threading.Lock] = []  # each is held by a thread for as long as it works
        self._cancelled = False
        # Also put among the jobs when nobody has these workers any more: an interrupt may come
        # as the block begins or ends. `__del__` would be another place for one to come, and Python
        # would drop it there.
        self._end = weakref.ref(self, self._jobs.put)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._abandon()
            return
        try:
            self._jobs.put(self._end)
            for thread in self._threads:
                thread.join()
        except BaseException:  # interrupted
            self._abandon()
            raise

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
            self._start()
        return future

    def cancel(self) -> None:
        """Do no job that is not begun."""
        self._cancelled = True

    def _start(self) -> None:
        turn = threading.Lock()
        self._turns.append(turn)
        arguments = (self._jobs, self._end, turn)
        thread = threading.Thread(target=_work, args=arguments, name=self._name)
        thread.start()
        self._threads.append(thread)

    def _abandon(self) -> None:
        """Cancel what is not begun, and wait for what is.

        Not for the threads: one whose start was interrupted may begin later, to find nothing to
        do, and an interrupted `join` makes the next one return at once (Python before 3.13).
        """
        self._cancelled = True
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not self._end:
                    job()
        self._jobs.put(self._end)
        for turn in self._turns:
            with turn:
                pass


def _work(jobs: _Queue, end: object, turn: threading.Lock) -> None:
    with turn:
        while (job := jobs.get()) is not end:
            job()
            del job
    jobs.put(job)  # for the others


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
