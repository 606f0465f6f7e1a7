"""`CheckpointManager`: when to save, and what to keep."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

import milepost
from milepost import Checkpoint, CheckpointManager, KeepBest, KeepEvery, KeepLast, KeepSteps, errors
from milepost.storage.local import LocalStorage
from milepost.store import Store, verify_store


def steps(path: Path) -> list[int]:
    return milepost.open(path).steps


def save_ten(path: Path, keep) -> CheckpointManager:
    state = {"step": 0}
    manager = CheckpointManager(Checkpoint(state=state, a=np.zeros(4)), path, keep=keep)
    losses = [9, 8, 1, 7, 6, 5, 2, 4, 3, 9]
    for step, loss in enumerate(losses, start=1):
        state["step"] = step
        manager.checkpoint.a[:] = step
        manager.save(step, metrics={"loss": loss})
    manager.close()
    return manager


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (None, list(range(1, 11))),
        (KeepLast(3), [8, 9, 10]),
        (KeepBest("loss"), [3, 10]),
        (KeepBest("loss", 2), [3, 7, 10]),
        (KeepBest("loss", 2, direction="max"), [1, 10]),
        (KeepEvery(4), [4, 8, 10]),
        (KeepSteps(2, 5), [2, 5, 10]),
        (KeepLast(2) | KeepBest("loss") | KeepEvery(5) | KeepSteps(1), [1, 3, 5, 9, 10]),
    ],
)
def test_policies(tmp_path: Path, keep, kept):
    save_ten(tmp_path, keep)
    assert steps(tmp_path) == kept
    store = Store.open(LocalStorage(tmp_path))
    assert list(verify_store(store)) == []
    for step in kept:
        assert np.asarray(store[step]["a"]).tolist() == [step] * 4
    assert len(os.listdir(tmp_path / "data")) == len(kept)


def test_the_best_is_kept_across_runs(tmp_path: Path):
    save_ten(tmp_path, KeepLast(1) | KeepBest("loss"))
    manager = CheckpointManager(Checkpoint(b=1), tmp_path, keep=KeepLast(1) | KeepBest("loss"))
    manager.save(11, metrics={"loss": 5})
    manager.close()
    assert steps(tmp_path) == [3, 11]


@pytest.mark.parametrize(
    "make",
    [
        lambda: KeepLast(0),
        lambda: KeepEvery(-1),
        lambda: KeepBest("loss", 0),
        lambda: KeepBest("niceness"),
        lambda: KeepBest("loss", direction="up"),
    ],
)
def test_policies_that_make_no_sense(make):
    with pytest.raises(errors.UsageError):
        make()


def test_nothing_is_removed_before_the_newer_one_is_committed(tmp_path: Path, monkeypatch):
    from milepost.store import write

    checkpoint = Checkpoint(a=np.zeros(4))
    manager = CheckpointManager(checkpoint, tmp_path, keep=KeepLast(1))
    manager.save(1)

    def fail(*arguments, **options):
        raise errors.StorageError("no more")

    monkeypatch.setattr(write._Save, "_commit", fail)
    checkpoint.a[:] = 1
    with pytest.raises(errors.StorageError):
        manager.save(2)
    manager.close()
    assert steps(tmp_path) == [1]
    assert milepost.verify(tmp_path) == []


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (KeepLast(1) | KeepSteps(1), [1, 3]),
        # Whether the damaged one is the best cannot be known, so all are kept.
        (KeepLast(1) | KeepBest("loss"), [1, 2, 3]),
    ],
)
def test_a_damaged_manifest_is_warned_of_and_stops_nothing(tmp_path: Path, keep, kept):
    checkpoint = Checkpoint(a=np.zeros(4))
    for step in (1, 2):
        checkpoint.save(tmp_path, step, metrics={"loss": step})
    (tmp_path / "checkpoints" / f"{1:020d}.json").write_bytes(b"")
    with (
        CheckpointManager(Checkpoint(a=np.ones(4)), tmp_path, keep=keep) as manager,
        pytest.warns(UserWarning, match="no data was removed.*0001.json is damaged"),
    ):
        manager.save(3, metrics={"loss": 3})
    assert steps(tmp_path) == kept


def test_every_n_steps(tmp_path: Path):
    with CheckpointManager(Checkpoint(a=1), tmp_path, every_steps=3) as manager:
        reports = [manager.save_if_due(step) for step in range(1, 10)]
    assert [r.step for r in reports if r] == [3, 6, 9]
    assert steps(tmp_path) == [3, 6, 9]


def test_every_t_seconds(tmp_path: Path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("milepost.checkpoint.manager.time.monotonic", lambda: now[0])
    with CheckpointManager(Checkpoint(a=1), tmp_path, every_seconds=60) as manager:
        for step in range(1, 11):
            now[0] += 25
            manager.save_if_due(step)
    assert steps(tmp_path) == [3, 6, 9]


def test_without_a_policy_nothing_is_due(tmp_path: Path):
    with CheckpointManager(Checkpoint(a=1), tmp_path) as manager:
        assert manager.save_if_due(1) is None
    with pytest.raises(errors.UsageError, match="every_steps"):
        CheckpointManager(Checkpoint(a=1), tmp_path, every_steps=0)


def test_sigterm_saves_at_the_next_step(tmp_path: Path, run_program):
    program = """
        import os, signal
        import milepost
        state = {"step": 0}
        checkpoint = milepost.Checkpoint(state=state)
        with milepost.CheckpointManager(checkpoint, "store", every_steps=1000) as manager:
            for step in range(1, 100):
                state["step"] = step
                if step == 7:
                    os.kill(os.getpid(), signal.SIGTERM)
                manager.save_if_due(step)
                if manager.should_stop:
                    break
        print("ended at", step)
        """
    assert run_program(program).stdout == "ended at 7\n"
    assert steps(tmp_path / "store") == [7]


def test_the_signal_handler_is_given_back(tmp_path: Path):
    heard = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        manager = CheckpointManager(Checkpoint(a=1), tmp_path)
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]  # whoever listened before still hears it
        assert manager.save_if_due(1).step == 1
        assert manager.should_stop
        manager.close()
        manager.close()
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(heard) == 2
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_restore_or_initialize(tmp_path: Path):
    state = {"step": 0}
    with CheckpointManager(Checkpoint(state=state), tmp_path / "store") as manager:
        assert manager.restore_or_initialize() is None
        assert not (tmp_path / "store").exists()
        state["step"] = 4
        manager.save(4)
        state["step"] = 0
        assert manager.restore_or_initialize().step == 4
        assert state == {"step": 4}


def test_an_empty_folder_is_a_fresh_start_and_another_is_an_error(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with CheckpointManager(Checkpoint(a=1), tmp_path / "empty") as manager:
        assert manager.restore_or_initialize() is None
    manager = CheckpointManager(Checkpoint(a=1), tmp_path, on_sigterm=False)
    with pytest.raises(errors.NotAStoreError):
        manager.restore_or_initialize()


def test_a_checkpoint_that_cannot_be_restored_is_an_error_not_a_fresh_start(tmp_path: Path):
    with CheckpointManager(Checkpoint(a=np.ones(3)), tmp_path) as manager:
        manager.save(1)
    manager = CheckpointManager(Checkpoint(a=np.ones(4)), tmp_path, on_sigterm=False)
    with pytest.raises(errors.RestoreRefusedError):
        manager.restore_or_initialize()


def test_two_managers_of_one_store(tmp_path: Path, run_program):
    program = """
        import sys
        import numpy as np
        from milepost import Checkpoint, CheckpointManager, KeepBest, KeepLast, errors

        me = int(sys.argv[1])
        checkpoint = Checkpoint(a=np.zeros(100))
        keep = KeepLast(1) | KeepBest("loss")
        manager = CheckpointManager(checkpoint, "store", keep=keep)
        for count in range(150):
            checkpoint.a[:] = count + me / 2
            try:
                manager.save(metrics={"loss": (count * 7 + me) % 50})
            except errors.StepExistsError:
                pass
        """
    threads = [threading.Thread(target=run_program, args=(program, str(me))) for me in (0, 1)]
    failures = []
    hook, threading.excepthook = threading.excepthook, lambda failure: failures.append(failure)
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            if (tmp_path / "store" / "milepost.json").exists():
                assert milepost.verify(tmp_path / "store") == []
                with contextlib.suppress(errors.StepNotFoundError):  # none yet
                    assert np.ptp(np.asarray(milepost.open(tmp_path / "store").latest["a"])) == 0
    finally:
        for thread in threads:
            thread.join()
        threading.excepthook = hook
    assert failures == []
    assert milepost.verify(tmp_path / "store") == []
