"""A process is really killed (SIGKILL) at each of its system calls in turn."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from milepost.storage.faults import FaultyFileSystem
from milepost.storage.local import LocalStorage
from milepost.store import Store, Writer, verify_store

from .conftest import check, make_state

# Forks for every point of failure: one import, many deaths.
PROGRAM = """
import os, sys
import numpy as np
from tests.store.conftest import make_state
from milepost.storage.faults import FaultyFileSystem, kill_process
from milepost.storage.local import LocalStorage
from milepost.store import Store, Writer

background = sys.argv[2] == "background"
for number in range(int(sys.argv[1])):
    child = os.fork()
    if child == 0:
        filesystem = FaultyFileSystem(fault=kill_process)
        writer = Writer(Store.open_or_create(LocalStorage(f"store-{number}", filesystem)))
        writer.save(make_state(1), 1)
        filesystem.fail_after(number)
        if background:
            writer.start(make_state(2), 2).result()
        else:
            writer.save(make_state(2), 2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(number, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("how", ["foreground", "background"])
def test_killed_at_any_call_nothing_committed_is_lost(tmp_path: Path, run_program, how: str):
    calls = _calls_of_a_save(tmp_path)
    root = Path(__file__).parents[2]
    finished = run_program(
        PROGRAM, str(len(calls)), how, PYTHONPATH=f"{root}{os.pathsep}{root / 'src'}"
    )
    deaths = [line.split() for line in finished.stdout.splitlines()]
    assert deaths == [[str(n), "9"] for n in range(len(calls))]
    seen = set()
    for number in range(len(calls)):
        folder = tmp_path / f"store-{number}"
        store = Store.open(LocalStorage(folder))
        seen.add(tuple(store.steps))
        for step in store.steps:
            check(store[step], make_state(step))
        # Nothing of the dead save is visible, and the next writer clears it away.
        Writer(store).save(make_state(3), 3)
        assert os.listdir(folder / "partial") == []
        assert list(verify_store(store)) == []
        assert len(os.listdir(folder / "data")) == len(store.steps)
    assert seen == {(1,), (1, 2)}


def _calls_of_a_save(folder: Path) -> list[str]:
    filesystem = FaultyFileSystem()
    writer = Writer(Store.open_or_create(LocalStorage(folder / "counted", filesystem)))
    writer.save(make_state(1), 1)
    before = len(filesystem.calls)
    writer.save(make_state(2), 2)
    return filesystem.calls[before:]
