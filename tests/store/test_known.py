"""What has not changed since the last save is neither copied nor written; what has, is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from milepost import Checkpoint, staging
from milepost.pieces import DigestedArray
from milepost.storage.local import LocalStorage
from milepost.store import Store, verify_store

SIZE = 5_000_000  # of float32: 20 MB, two chunks


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The pieces that a save copies: their leaves, and where they start."""
    found: list[tuple[str, int]] = []
    add = staging.Batch.add

    def recorded(self, array: DigestedArray, piece, data) -> None:
        found.append((array.name, piece.start))
        add(self, array, piece, data)

    monkeypatch.setattr(staging.Batch, "add", recorded)
    return found


def test_only_what_changed_is_copied_and_written(tmp_path: Path, copied):
    arrays = {name: np.random.default_rng(7).standard_normal(SIZE // 2) for name in "ab"}
    arrays["b"] += 1
    checkpoint = Checkpoint(x=arrays)
    assert checkpoint.save(tmp_path).written == 8 * SIZE
    copied.clear()
    assert checkpoint.save(tmp_path).written == 0
    assert copied == []
    arrays["b"][-1] += 1e-12  # one number, in the last chunk, where no sample looks
    report = checkpoint.save(tmp_path)
    assert [name for name, _ in copied] == ["x/b"]
    assert 0 < report.written < 4 * SIZE
    store = Store.open(LocalStorage(tmp_path))
    for name, array in arrays.items():
        np.testing.assert_array_equal(np.asarray(store.latest[f"x/{name}"]), array)
    assert list(verify_store(store)) == []


@pytest.mark.parametrize("how", ["data", "numpy", "in place", "elsewhere"])
def test_no_way_to_change_a_torch_tensor_goes_unnoticed(tmp_path: Path, how: str):
    import torch

    tensor = torch.zeros(SIZE)
    shared = torch.from_numpy(tensor.numpy())
    checkpoint = Checkpoint(t={"t": tensor})
    checkpoint.save(tmp_path)
    checkpoint.save(tmp_path)
    if how == "data":
        tensor.data[-1] = 1
    elif how == "numpy":
        tensor.numpy()[-1] = 1
    elif how == "in place":
        tensor[-1] = 1
    else:
        shared[-1] = 1
    assert checkpoint.save(tmp_path).written > 0
    assert np.asarray(Store.open(LocalStorage(tmp_path)).latest["t/t"])[-1] == 1


def test_a_jax_array_that_is_the_same_object_is_not_even_read(tmp_path: Path, monkeypatch):
    import jax

    from milepost.fingerprint import Fingerprint

    checkpoint = Checkpoint(a=jax.numpy.arange(SIZE), b=jax.numpy.arange(SIZE) + 1)
    checkpoint.save(tmp_path)
    looked: list[int] = []
    fits = Fingerprint.fits
    monkeypatch.setattr(Fingerprint, "fits", lambda s, data: looked.append(1) or fits(s, data))
    assert checkpoint.save(tmp_path).written == 0
    assert looked == []
    checkpoint.b = checkpoint.b + 1
    assert checkpoint.save(tmp_path).written > 0
    assert looked
    assert np.asarray(Store.open(LocalStorage(tmp_path)).latest["b"])[0] == 2


def test_after_a_restore_nothing_is_written_again(tmp_path: Path, copied):
    first = Checkpoint(a=np.arange(SIZE, dtype=np.float32))
    first.save(tmp_path)
    second = Checkpoint(a=np.zeros(SIZE, np.float32))
    second.restore(tmp_path)
    copied.clear()
    assert second.save(tmp_path).written == 0
    assert copied == []
    second.a[3] = 7
    assert second.save(tmp_path).written > 0
    assert np.asarray(Store.open(LocalStorage(tmp_path)).latest["a"])[3] == 7


def test_data_that_was_pruned_meanwhile_is_written_again(tmp_path: Path):
    from milepost.store import prune

    old = np.arange(SIZE, dtype=np.float32)
    checkpoint = Checkpoint(a=old.copy())
    checkpoint.save(tmp_path)
    checkpoint.a += 1
    checkpoint.save(tmp_path)
    prune(Store.open(LocalStorage(tmp_path)), lambda store: [2])
    checkpoint.a[:] = old  # the bytes of step 1, whose pack is gone
    assert checkpoint.save(tmp_path).written == old.nbytes
    store = Store.open(LocalStorage(tmp_path))
    np.testing.assert_array_equal(np.asarray(store.latest["a"]), old)
    assert list(verify_store(store)) == []


def test_equal_chunks_of_one_save_are_written_once(tmp_path: Path):
    checkpoint = Checkpoint(m=np.zeros(SIZE), v=np.zeros(SIZE), w=np.ones(SIZE))
    report = checkpoint.save(tmp_path)
    assert report.nbytes == 3 * 8 * SIZE
    whole, rest = 16 << 20, 8 * SIZE - 2 * (16 << 20)
    assert report.written == 2 * (whole + rest)  # of zeros, and of ones
    assert list(verify_store(Store.open(LocalStorage(tmp_path)))) == []


def test_the_memory_that_a_save_takes_is_bounded(tmp_path: Path):
    import tracemalloc

    arrays = {str(n): np.full(SIZE, n, np.float64) for n in range(5)}  # 200 MB
    checkpoint = Checkpoint(arrays=arrays)
    tracemalloc.start()
    try:
        checkpoint.save(tmp_path / "first")
        checkpoint.save(tmp_path / "first")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64_000_000
