"""Two processes that write to the same store."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import numpy as np
import pytest

import milepost
from milepost import Checkpoint, errors
from milepost.state import State
from milepost.storage.local import LocalStorage
from milepost.store import Store, Writer, prune, verify_store

from .conftest import make_state

RACE = """
import sys, time
import numpy as np
from milepost import errors
from milepost.state import State
from milepost.storage.local import LocalStorage
from milepost.store import Store, Writer

me = int(sys.argv[1])
writer = Writer(Store.open_or_create(LocalStorage("store")))
open(f"ready-{me}", "w").close()
import os
while not os.path.exists("go"):
    time.sleep(0.001)
won = lost = 0
for step in range(1, 31):
    try:
        writer.save(State({"who": np.full(1000, me), "step": step}), step)
        won += 1
    except errors.StepExistsError as error:
        assert f"has step {step} already" in str(error)
        lost += 1
print(won, lost)
"""


def test_of_two_that_commit_the_same_step_one_wins(tmp_path: Path, run_program):
    results = {}

    def race(me: int) -> None:
        results[me] = run_program(RACE, str(me)).stdout.split()

    threads = [threading.Thread(target=race, args=(me,)) for me in (1, 2)]
    for thread in threads:
        thread.start()
    while not all((tmp_path / f"ready-{me}").exists() for me in (1, 2)):
        assert any(thread.is_alive() for thread in threads)
    (tmp_path / "go").touch()
    for thread in threads:
        thread.join()
    won = [int(results[me][0]) for me in (1, 2)]
    lost = [int(results[me][1]) for me in (1, 2)]
    assert won[0] + won[1] == 30
    assert lost == [30 - won[0], 30 - won[1]]
    store = Store.open(LocalStorage(tmp_path / "store"))
    assert store.steps == list(range(1, 31))
    assert list(verify_store(store)) == []
    for checkpoint in store.values():
        assert len(np.unique(np.asarray(checkpoint["who"]))) == 1
    # A loser takes its pack back; if both won something, each has its own.
    assert len(store.storage.list("data")) <= 30


def test_the_loser_leaves_nothing_behind(tmp_path: Path):
    first = Writer(Store.open_or_create(LocalStorage(tmp_path / "store")))
    second = Writer(Store.open(LocalStorage(tmp_path / "store")))
    first.save(make_state(1), 1)

    class Sneaky:
        """While the second process writes its pack, the first commits the same step."""

        dtype, shape = np.dtype(np.float64), (4,)
        reads = 0

        def __array__(self, dtype=None, copy=None):
            self.reads += 1
            if self.reads == 2:
                first.save(make_state(2), 2)
            return np.full(4, 0.5)

    with pytest.raises(errors.StepExistsError, match="has step 2 already.*another process"):
        second.save(State({"sneaky": Sneaky()}), 2)
    store = Store.open(LocalStorage(tmp_path / "store"))
    assert store[2]["progress/epoch"] == 2
    assert len(store.storage.list("data")) == 2


def test_pruning_waits_for_a_save_that_is_under_way(tmp_path: Path):
    """Or it could remove data that the save is about to refer to."""
    writer = Writer(Store.open_or_create(LocalStorage(tmp_path / "store")))
    writer.save(make_state(1), 1)
    other = Store.open(LocalStorage(tmp_path / "store"))
    pruned = threading.Event()
    threads = []

    class Slow:
        dtype, shape = np.dtype(np.float64), (4,)
        started = False

        def __array__(self, dtype=None, copy=None):
            if not self.started:
                self.started = True
                thread = threading.Thread(
                    target=lambda: (prune(other, lambda _: {2}), pruned.set())
                )
                threads.append(thread)
                thread.start()
                assert not pruned.wait(0.3)
            return np.full(4, 0.5)

    state = make_state(1)
    writer.save(State({**state.leaves, "slow": Slow()}), 2)
    threads[0].join(timeout=30)
    assert pruned.is_set()
    store = Store.open(LocalStorage(tmp_path / "store"))
    assert store.steps == [2]
    assert list(verify_store(store)) == []


def test_threads_that_share_a_checkpoint_lose_nothing(tmp_path: Path):
    """Not even where one takes back a pack in which the other has found its data."""
    checkpoint = Checkpoint(w=np.random.default_rng(0).random(2000))
    start = threading.Barrier(2)
    unexpected = []

    def save_ten() -> None:
        start.wait()
        for _ in range(10):
            try:
                checkpoint.save(tmp_path)
            except errors.StepExistsError:
                pass
            except Exception as error:
                unexpected.append(error)

    threads = [threading.Thread(target=save_ten) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert unexpected == []
    assert milepost.verify(tmp_path) == []


def test_a_pack_is_not_found_before_it_is_committed(tmp_path: Path, monkeypatch):
    """The same, in the one order that matters."""
    from milepost.store import write

    writer = Writer(Store.open_or_create(LocalStorage(tmp_path)))
    commit = write._Save._commit
    second = threading.Thread(target=lambda: writer.save(make_state(1), 2))

    def fail_while_another_saves(self, final):
        monkeypatch.setattr(write._Save, "_commit", commit)
        second.start()
        second.join(timeout=0.3)
        raise errors.StorageError("no more")

    monkeypatch.setattr(write._Save, "_commit", fail_while_another_saves)
    with pytest.raises(errors.StorageError, match="no more"):
        writer.save(make_state(1), 1)
    second.join()
    assert writer.store.steps == [2]
    assert milepost.verify(tmp_path) == []


def test_a_writer_can_be_copied(tmp_path: Path):
    checkpoint = Checkpoint(w=np.arange(4))
    checkpoint.save(tmp_path)
    copy.deepcopy(checkpoint).save(tmp_path)
    assert milepost.verify(tmp_path) == []


def test_what_another_process_overwrote_is_read_anew_before_data_is_removed(tmp_path: Path):
    first = Writer(Store.open_or_create(LocalStorage(tmp_path)))
    first.save(make_state(1, frozen=1), 1)
    first.save(make_state(2, frozen=2), 2)
    first.store.all_metrics()
    second = Writer(Store.open(LocalStorage(tmp_path)))
    second.index(second.store.manifest(1))
    second.save(make_state(1, frozen=1), 2, overwrite=True)  # its data is that of step 1
    first.save(make_state(3, frozen=3), 1, overwrite=True)
    assert milepost.verify(tmp_path) == []
