"""`collector.paused`: no collections inside, and afterwards as it was before."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest

from milepost import collector


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


def test_it_is_paused_inside_and_not_afterwards():
    with collector.paused():
        assert not gc.isenabled()
        with collector.paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_error_ends_the_pause():
    with pytest.raises(ValueError, match="stop"), collector.paused():
        raise ValueError("stop")
    assert gc.isenabled()


def test_who_has_switched_it_off_finds_it_off():
    gc.disable()
    with collector.paused():
        pass
    assert not gc.isenabled()


def test_the_last_of_several_threads_ends_it():
    inside, leave = threading.Barrier(3), [threading.Event() for _ in range(2)]

    def pause(number: int) -> None:
        with collector.paused():
            inside.wait(30)
            leave[number].wait(30)

    threads = [threading.Thread(target=pause, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    inside.wait(30)
    leave[0].set()
    threads[0].join()
    assert not gc.isenabled()
    leave[1].set()
    threads[1].join()
    assert gc.isenabled()
