"""`write_file`: one pass over the arrays; all or nothing, and one moment's values or an error."""

from __future__ import annotations

import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from milepost import errors
from milepost.formats import model_file
from milepost.formats.model_file import ModelDocument
from milepost.formats.safetensors import open_source
from milepost.model.write import write_file
from milepost.snapshot import Snapshot
from milepost.storage.faults import (
    FaultyFileSystem,
    PowerFailure,
    PowerLossDisk,
    disk_full,
    input_output_error,
)
from milepost.storage.filesystem import FileSystem
from milepost.storage.local import open_file

LARGE = 700_000  # elements: more than one chunk where chunks are small


def leaves_of(seed: int) -> dict:
    draw = np.random.default_rng(seed)
    return {
        "wide": draw.standard_normal(3000),
        "kernel": draw.standard_normal((40, 120)).astype(np.float32),
        "turned": draw.standard_normal((30, 40)).astype(np.float32).T,
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(seed, np.int64),
        "bytes": draw.integers(0, 255, 5001, np.uint8),
        "seed": seed,
    }


def write(path: str, leaves: dict, filesystem: FileSystem | None = None) -> None:
    document = ModelDocument("torch", {}, {}, {"tied": "kernel"})
    write_file(
        path,
        {**leaves, "tied": leaves.get("kernel", 0)},
        {"tied": "kernel"} if "kernel" in leaves else {},
        lambda records: model_file.encode(replace(document, records=records)),
        filesystem,
    )


def read(path: str, filesystem: FileSystem | None = None) -> int:
    """The seed of what lies there, once it is known to be whole and as it was saved."""
    with open_source(open_file(path, filesystem)) as snapshot:
        check(snapshot)
        return int(np.asarray(snapshot["scalar"]))


def check(snapshot: Snapshot) -> None:
    assert list(snapshot.damage()) == []
    for name, leaf in leaves_of(snapshot["seed"]).items():
        np.testing.assert_array_equal(np.asarray(snapshot[name]), leaf)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small enough that the buffers are filled several times."""
    monkeypatch.setattr("milepost.pieces.CHUNK_BYTES", 8192)
    monkeypatch.setattr("milepost.staging.SLOT_BYTES", 8192)
    monkeypatch.setattr("milepost.storage.direct.BUFFER_BYTES", 4096)
    monkeypatch.setattr("milepost.storage.direct.PART_BYTES", 4096)


def test_what_is_written_is_read(tmp_path: Path):
    write(str(tmp_path / "model"), leaves_of(1))
    assert read(str(tmp_path / "model")) == 1
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("fault", [disk_full, input_output_error])
def test_whichever_call_fails_the_old_file_stays_or_the_new_is_whole(tmp_path: Path, fault):
    target = str(tmp_path / "model")
    counting = FaultyFileSystem()
    write(target, leaves_of(1), counting)
    assert counting.calls.count("write_at") > 5
    for at in range(1, len(counting.calls) + 1):
        write(target, leaves_of(1))
        with pytest.raises(errors.StorageError):
            write(target, leaves_of(2), FaultyFileSystem(at, fault))
        renamed = at > counting.calls.index("rename") + 1
        assert read(target) == (2 if renamed else 1)
        assert os.listdir(tmp_path) == ["model"]


def test_whenever_the_power_fails_one_of_them_is_there_whole():
    def disk_with_old(fail_at: int | None = None) -> PowerLossDisk:
        disk = PowerLossDisk()
        write("/model", leaves_of(1), disk)
        disk.fail_at = None if fail_at is None else disk.changes + fail_at
        return disk

    disk = disk_with_old()
    before = disk.changes
    write("/model", leaves_of(2), disk)
    outcomes = set()
    for at in range(1, disk.changes - before + 1):
        broken = disk_with_old(at)
        with pytest.raises(PowerFailure):
            write("/model", leaves_of(2), broken)
        for seed in range(12):
            outcomes.add(read("/model", broken.after_loss(seed)))
    assert outcomes == {1, 2}
    for seed in range(50):
        assert read("/model", disk.after_loss(seed)) == 2  # what has returned stays


PROGRAM = """
import os, sys
import milepost.pieces, milepost.staging, milepost.storage.direct
milepost.pieces.CHUNK_BYTES = milepost.staging.SLOT_BYTES = 8192
milepost.storage.direct.BUFFER_BYTES = milepost.storage.direct.PART_BYTES = 4096
from tests.model.test_write_file import leaves_of, write
from milepost.storage.faults import FaultyFileSystem, kill_process

for number in range(1, int(sys.argv[1]) + 1):
    child = os.fork()
    if child == 0:
        write(f"model-{number}", leaves_of(1))
        write(f"model-{number}", leaves_of(2), FaultyFileSystem(number, kill_process))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_call_one_of_them_is_there_whole(tmp_path: Path, run_program):
    counting = FaultyFileSystem()
    write(str(tmp_path / "counted"), leaves_of(1), counting)
    calls = len(counting.calls)
    root = Path(__file__).parents[2]
    finished = run_program(PROGRAM, str(calls), PYTHONPATH=str(root))
    assert finished.stdout.split() == ["9"] * calls
    found = [read(str(tmp_path / f"model-{number}")) for number in range(1, calls + 1)]
    renamed = counting.calls.index("rename") + 1
    assert found == [1] * renamed + [2] * (calls - renamed)


class Restless:
    """An array that another thread writes to: it is another one at every look."""

    dtype, shape = np.dtype(np.float32), (3,)

    def __init__(self) -> None:
        self.looks = 0

    def __array__(self, dtype=None, copy=None):
        self.looks += 1
        return np.full(3, self.looks, np.float32)


def test_an_array_that_changes_while_it_is_saved_is_noticed(tmp_path: Path):
    target = str(tmp_path / "model")
    write(target, leaves_of(1))
    with pytest.raises(errors.UsageError, match="'restless' changed while it was being saved"):
        write(target, {**leaves_of(2), "restless": Restless()})
    assert read(target) == 1
    assert os.listdir(tmp_path) == ["model"]


def test_an_array_that_changes_after_its_turn_and_before_the_end_is_noticed(tmp_path: Path):
    """Else the file would hold values of two moments, a state that never was."""
    first = np.zeros(LARGE)

    class Meddling:
        """Comes last, because it is narrow; by then the first array has been written."""

        dtype, shape = np.dtype(np.uint8), (3,)

        def __array__(self, dtype=None, copy=None):
            first[0] = 1
            return np.zeros(3, np.uint8)

    with pytest.raises(errors.UsageError, match="'first' changed while it was being saved"):
        write(str(tmp_path / "model"), {"first": first, "last": Meddling()})
    assert os.listdir(tmp_path) == []


def test_an_array_of_another_shape_than_it_said_is_noticed(tmp_path: Path):
    class Shrinking:
        dtype, shape = np.dtype(np.float32), (3,)

        def __array__(self, dtype=None, copy=None):
            return np.zeros(2, np.float32)

    with pytest.raises(errors.UsageError, match="'a' changed while it was being saved"):
        write(str(tmp_path / "model"), {"a": Shrinking()})
    assert os.listdir(tmp_path) == []


def test_the_memory_that_it_takes_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()  # chunks as they are
    leaves = {name: np.zeros(30_000_000, np.uint8) for name in "abcde"}
    write(str(tmp_path / "warm"), {"a": np.zeros(3)})
    tracemalloc.start()
    try:
        write(str(tmp_path / "model"), leaves)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64_000_000
