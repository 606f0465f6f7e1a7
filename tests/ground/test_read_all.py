"""`Snapshot.read_all`: the same as reading leaf by leaf, by several threads."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from milepost import errors
from milepost.buffers import ALIGNMENT, aligned
from milepost.snapshot import Snapshot
from milepost.state import State
from milepost.storage.local import LocalStorage
from milepost.store import Store, Writer

NAMES = [f"leaf{number}" for number in range(20)]


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    monkeypatch.setattr("milepost.pieces.CHUNK_BYTES", 4096)
    monkeypatch.setattr("milepost.workers.JOB_BYTES", 1000)
    leaves = {name: np.full((100, 30), i, np.float32) for i, name in enumerate(NAMES)}
    Writer(Store.open_or_create(LocalStorage(tmp_path))).save(State({**leaves, "n": 7}), 1)
    return Store.open(LocalStorage(tmp_path))[1]


def test_values_come_in_the_order_of_their_names(snapshot: Snapshot):
    with snapshot:
        wanted = [*reversed(NAMES), "n", NAMES[3]]
        *found, n, third = snapshot.read_all(wanted)
    assert n == 7
    assert [array[0, 0] for array in found] == list(reversed(range(20)))
    np.testing.assert_array_equal(third, np.full((100, 30), 3, np.float32))
    assert not np.shares_memory(third, found[-4])  # named twice, read twice


def test_the_first_that_is_damaged_is_named_and_no_thread_is_left(snapshot, tmp_path: Path):
    [pack] = (tmp_path / "data").iterdir()
    data = bytearray(pack.read_bytes())
    for name in ("leaf5", "leaf11"):
        data[snapshot.record(name).chunks[1].position] ^= 1
    pack.write_bytes(data)
    before = threading.active_count()
    with snapshot, pytest.raises(errors.DamagedError, match="leaf 'leaf5'"):
        snapshot.read_all(NAMES)
    assert threading.active_count() == before


def test_an_unknown_name(snapshot: Snapshot):
    with snapshot, pytest.raises(errors.LeafNotFoundError, match="leaf1x"):
        snapshot.read_all(["leaf1", "leaf1x"])


def test_what_is_read_is_aligned(snapshot: Snapshot):
    with snapshot:
        for value in snapshot.read_all(NAMES):
            assert value.ctypes.data % ALIGNMENT == 0


@pytest.mark.parametrize("boundary", [64, 4096])
@pytest.mark.parametrize("nbytes", [0, 1, 100, 10_000_000])
def test_aligned_memory(nbytes: int, boundary: int):
    memory = aligned(nbytes, boundary)
    assert memory.nbytes == nbytes
    assert nbytes == 0 or memory.ctypes.data % boundary == 0  # nothing lies nowhere
    memory[:] = 1
