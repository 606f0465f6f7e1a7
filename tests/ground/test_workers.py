"""Threads that are handed jobs, and how they end: as they should, in an error, interrupted."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import Future

import pytest

from milepost.workers import Workers
from tests.interrupts import ctrl_c

linux = pytest.mark.skipif(sys.platform == "win32", reason="signals are different there")


def test_all_jobs_are_done_at_the_end():
    done: list[int] = []
    with Workers(2, "test") as workers:
        futures = [workers.submit(done.append, number) for number in range(100)]
    assert sorted(done) == list(range(100))
    assert all(future.done() for future in futures)
    assert threads() == []


def test_what_a_job_raises_is_raised_by_its_result():
    with Workers(2, "test") as workers:
        future = workers.submit(int, "one")
    with pytest.raises(ValueError, match="one"):
        future.result()


class Slow:
    """Jobs of which two are begun, and the rest waits."""

    def __init__(self, workers: Workers) -> None:
        self.running = 0
        self.begun = threading.Barrier(3)
        self.opened = threading.Event()
        self.futures: list[Future[None]] = [workers.submit(self.work) for _ in range(10)]
        self.begun.wait(60)

    def work(self) -> None:
        self.running += 1
        self.begun.wait(60)
        assert self.opened.wait(60)
        time.sleep(0.05)
        self.running -= 1

    def check(self) -> None:
        assert self.running == 0
        assert [future.cancelled() for future in self.futures] == [False] * 2 + [True] * 8
        assert threads() == []


def test_an_error_waits_for_what_is_begun_and_for_nothing_else():
    with pytest.raises(KeyError), Workers(2, "test") as workers:  # noqa: PT012
        slow = Slow(workers)
        threading.Timer(0.1, slow.opened.set).start()
        raise KeyError
    slow.check()


@linux
@pytest.mark.parametrize("waiting", [False, True])
def test_so_does_an_interrupt(waiting):
    """In the block, or at its end, in the midst of waiting."""
    with pytest.raises(KeyboardInterrupt), ctrl_c(0.1), Workers(2, "test") as workers:  # noqa: PT012
        slow = Slow(workers)
        threading.Timer(0.3, slow.opened.set).start()
        if not waiting:
            slow.futures[0].result()
    slow.check()


def test_the_threads_of_workers_that_are_lost_end():
    """As when an interrupt comes before their block begins."""
    workers = Workers(2, "test")
    name = workers.submit(lambda: threading.current_thread().name).result()
    assert name == "test"
    del workers
    assert threads() == []


def threads() -> list[str]:
    """Those of `Workers`, once they have had time to end."""
    end = time.monotonic() + 5
    while found := [thread.name for thread in threading.enumerate() if thread.name == "test"]:
        if time.monotonic() > end:
            break
        time.sleep(0.001)
    return found
