"""Compaction that goes on while a manager saves."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import milepost
from milepost import Checkpoint, CheckpointManager, KeepLast, errors
from milepost.checkpoint.background import BackgroundCompaction


def _compactions() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "milepost-compact"]


def _train(manager: CheckpointManager, weights: np.ndarray, steps: range) -> dict[int, np.ndarray]:
    seen = {}
    for step in steps:
        weights += np.float32(1e-4)
        manager.save(step)
        seen[step] = weights.copy()
    return seen


def _encoded(folder: Path) -> list[int]:
    store = milepost.open(folder)
    return [
        step
        for step in store.steps
        if any(chunk.encoding for chunk in store.manifest(step).records["weights"].chunks)
    ]


def _fresh(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((64, 64)).astype(np.float32)


@pytest.mark.parametrize("background", [False, True])
def test_older_checkpoints_are_compacted_and_stay_the_same(tmp_path: Path, background: bool):
    weights = _fresh()
    checkpoint = Checkpoint(weights=weights)
    seen = {}
    with CheckpointManager(
        checkpoint, tmp_path, background=background, compression="lossless", on_sigterm=False
    ) as manager:
        for first in range(1, 31, 10):
            seen |= _train(manager, weights, range(first, first + 10))
            manager.wait()
            for thread in _compactions():
                thread.join()
    assert len(_encoded(tmp_path)) >= 20
    assert 30 not in _encoded(tmp_path)
    assert milepost.verify(tmp_path) == []
    for step, expected in seen.items():
        checkpoint.restore(tmp_path, step)
        assert np.array_equal(weights, expected)


def test_without_it_nothing_is_compacted(tmp_path: Path):
    weights = _fresh()
    with CheckpointManager(Checkpoint(weights=weights), tmp_path, on_sigterm=False) as manager:
        _train(manager, weights, range(1, 20))
        assert _compactions() == []
    assert _encoded(tmp_path) == []


def test_beside_a_policy_that_removes(tmp_path: Path):
    weights = _fresh()
    with CheckpointManager(
        Checkpoint(weights=weights),
        tmp_path,
        keep=KeepLast(5),
        compression="lossless",
        on_sigterm=False,
    ) as manager:
        _train(manager, weights, range(1, 60))
    assert milepost.open(tmp_path).steps == [55, 56, 57, 58, 59]
    assert milepost.verify(tmp_path) == []


def test_its_failure_is_raised_by_the_next_save(tmp_path: Path):
    weights = _fresh()
    manager = CheckpointManager(Checkpoint(weights=weights), tmp_path, on_sigterm=False)
    _train(manager, weights, range(1, 4))
    store = milepost.open(tmp_path)
    pack = tmp_path / store.manifest(2).packs[0].name
    data = bytearray(pack.read_bytes())
    data[-100] ^= 1
    pack.write_bytes(data)
    manager = CheckpointManager(
        Checkpoint(weights=weights), tmp_path, compression="lossless", on_sigterm=False
    )
    manager.save(4)
    for thread in _compactions():
        thread.join()
    with pytest.raises(errors.DamagedError, match="weights"):
        manager.save(5)
    manager.save(5)  # told once
    assert milepost.open(tmp_path).steps == [1, 2, 3, 4, 5]
    manager.close()


def test_the_end_of_the_program_waits_for_no_compaction_and_tells_its_failure(run_program):
    program = """
        import sys, threading
        import numpy as np
        from milepost import Checkpoint, CheckpointManager
        from milepost.store import Compaction

        began = threading.Event()
        def written(self, *arguments):
            began.set()
            if sys.argv[1] == "fails":
                raise OSError("no such luck")
            while not self._stopped():
                pass
        Compaction._written = written
        weights = np.zeros((64, 64))
        manager = CheckpointManager(
            Checkpoint(weights=weights), sys.argv[1], compression="lossless", on_sigterm=False
        )
        for step in range(1, 10):  # of which the first and the ninth compact
            weights += 1
            manager.save(step)
        assert began.wait(60)
        print("end")
    """
    finished = run_program(program, "stops")
    assert finished.stdout == "end\n"
    finished = run_program(program, "fails", status=1)
    assert "the background compaction of" in finished.stderr
    assert "no such luck" in finished.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_it_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = []

    def run(self):
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    monkeypatch.setattr("milepost.store.Compaction.run", run)
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    Checkpoint(weights=_fresh()).save(tmp_path)
    compaction = BackgroundCompaction(milepost.open(tmp_path).storage)
    compaction.saved()
    compaction.stop()
    assert found == [19]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_a_compression_of_another_name_is_refused(tmp_path: Path):
    with pytest.raises(errors.UsageError, match="'lossless', found 'zip'"):
        CheckpointManager(Checkpoint(a=1), tmp_path, compression="zip", on_sigterm=False)
