"""Compaction: where bases are read, what is known of later steps, and large chunks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from milepost import decoding, errors
from milepost.state import State
from milepost.storage.local import LocalStorage
from milepost.store import Compaction, Store, Writer, prune

from .conftest import check
from .runs import run_state
from .test_compact import check_all, disk_bytes, encodings, saved

STEPS = list(range(1, 10))


def _never(*_: object) -> None:
    raise AssertionError("a base was decoded")


def test_a_base_is_read_as_it_was_for_as_long_as_it_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = saved(LocalStorage(tmp_path / "plain"), *STEPS).store
    with monkeypatch.context() as patch:
        patch.setattr("milepost.store.compact._BATCH", 100)
        patch.setattr(decoding, "decode_into", _never)
        Compaction(store).run()
    assert encodings(store, 2, "model/weights") == ["differences"]
    check_all(store, STEPS)
    # Where old packs go at once, bases are decoded, and all comes out the same.
    monkeypatch.setattr("milepost.store.compact._BATCH", 1)
    other = saved(LocalStorage(tmp_path / "decoded"), *STEPS).store
    Compaction(other).run()
    check_all(other, STEPS)
    assert disk_bytes(tmp_path / "decoded") == disk_bytes(tmp_path / "plain")


def test_an_old_pack_that_another_process_removes_is_not_missed(tmp_path: Path):
    storage = LocalStorage(tmp_path)
    store = saved(storage, *STEPS).store

    def told(step: int, left: int) -> None:
        prune(Store.open(storage), lambda steps: set(steps.steps))

    Compaction(store, told=told).run()
    check_all(store, STEPS)


def test_a_step_that_was_looked_at_ahead_may_be_overwritten(tmp_path: Path):
    storage = LocalStorage(tmp_path)
    store = saved(storage, *STEPS).store
    seen: set[int] = set()
    compaction: Compaction

    def told(step: int, left: int) -> None:
        later = [found for found in compaction._later if found < STEPS[-1]]
        for ahead in set(later) - seen:
            Writer(Store.open(storage)).save(run_state(ahead + 100), ahead, overwrite=True)
            seen.add(ahead)

    compaction = Compaction(store, told=told)
    compaction.run()
    assert seen
    for step in STEPS:
        store.forget(step)
        with store[step] as checkpoint:
            check(checkpoint, run_state(step + 100 if step in seen else step))


def _large(step: int) -> State:
    """A chunk of several blocks, which takes more than the memory of one even when encoded."""
    start, drift = np.random.default_rng(0), np.random.default_rng(step)
    weights = start.standard_normal(5 << 18).astype(np.float32)
    changes = drift.standard_normal(len(weights)).astype(np.float32)
    return State({"model/weights": weights + changes * np.float32(1e-3)})


def test_a_chunk_of_many_blocks_is_read_and_checked_block_by_block(tmp_path: Path):
    writer = Writer(Store.open_or_create(LocalStorage(tmp_path)))
    for step in (1, 2, 3):
        writer.save(_large(step), step)
    store = writer.store
    Compaction(store).run()
    assert encodings(store, 2, "model/weights") == ["differences"]
    with store[2] as checkpoint:
        check(checkpoint, _large(2))
    found = store.manifest(2)
    [chunk] = found.records["model/weights"].chunks  # type: ignore[union-attr]
    assert chunk.stored_bytes > decoding._BLOCK_BYTES
    pack = tmp_path / found.packs[chunk.file].name
    whole = pack.read_bytes()
    for at in (chunk.position, chunk.position + chunk.stored_bytes // 2, chunk.end - 1):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        pack.write_bytes(damaged)
        with (
            Store.open(LocalStorage(tmp_path))[2] as checkpoint,
            pytest.raises(errors.DamagedError, match=pack.name),
        ):
            np.asarray(checkpoint["model/weights"])
