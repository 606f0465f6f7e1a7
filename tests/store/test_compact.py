"""Compaction: smaller, the same to the last bit, and in nobody's way."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import milepost
from milepost import errors
from milepost.state import State
from milepost.storage.local import LocalStorage
from milepost.storage.memory import MemoryStorage
from milepost.store import Compaction, Store, Writer, compact_store, prune, verify_store

from .conftest import check
from .runs import run_state


def saved(storage: object, *steps: int) -> Writer:
    writer = Writer(Store.open_or_create(storage))
    for step in steps:
        writer.save(run_state(step), step)
    return writer


def check_all(store: Store, steps: list[int]) -> None:
    assert store.steps == steps
    for step in steps:
        with store[step] as checkpoint:
            check(checkpoint, run_state(step))
    assert list(verify_store(store)) == []


def encodings(store: Store, step: int, leaf: str) -> list[str | None]:
    """How each chunk of a leaf is encoded: `None`, `"stored"`, `"planes"`, `"differences"`."""
    store.forget(step)
    chunks = store.manifest(step).records[leaf].chunks
    return [
        None
        if chunk.encoding is None
        else "differences"
        if chunk.encoding.base is not None
        else chunk.encoding.codec
        for chunk in chunks
    ]


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "data").iterdir())


def test_every_step_is_smaller_and_the_same(tmp_path: Path):
    store = saved(LocalStorage(tmp_path), *range(1, 9)).store
    before = disk_bytes(tmp_path)
    report = compact_store(store, 2, lambda step, left: None)
    assert report.steps == tuple(range(1, 8))
    assert report.before == before
    assert report.after == disk_bytes(tmp_path) < 0.7 * before
    check_all(store, list(range(1, 9)))
    check_all(Store.open(LocalStorage(tmp_path)), list(range(1, 9)))
    found = {step: encodings(store, step, "model/weights") for step in store.steps}
    assert found[1] == ["planes"]
    assert found[2] == ["differences"]
    assert found[8] == [None]  # the newest is as it was
    assert encodings(store, 3, "model/noise") == ["stored"]
    assert encodings(store, 3, "model/small") == ["stored"]
    assert encodings(store, 3, "model/frozen") == [None]  # the newest has it, too


def test_a_chunk_with_several_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("milepost.pieces.CHUNK_BYTES", 8192)
    store = saved(LocalStorage(tmp_path), 1, 2, 3, 4).store
    Compaction(store).run()
    assert encodings(store, 2, "model/weights") == ["differences"] * 3
    check_all(store, [1, 2, 3, 4])
    rows = store[2]["model/weights"][30:40]
    assert np.array_equal(rows, run_state(2).leaves["model/weights"][30:40])


def test_one_leaf_may_be_asked_for_twice(tmp_path: Path):
    store = saved(LocalStorage(tmp_path), 1, 2, 3).store
    Compaction(store).run()
    expected = run_state(2).leaves["model/weights"]
    for found in store[2].read_all(["model/weights", "model/weights"]):
        assert np.array_equal(found, expected)


def test_what_readers_would_refuse_is_kept_as_it_is(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("milepost.store.recode.MAX_BYTES", 20_000)
    store = saved(LocalStorage(tmp_path), 1, 2, 3).store
    Compaction(store).run()
    assert encodings(store, 2, "model/weights") == ["stored"]  # 24,576 bytes
    assert encodings(store, 2, "model/half") == ["differences"]
    check_all(store, [1, 2, 3])


def test_nothing_is_read_through_more_than_one_base(tmp_path: Path):
    store = saved(LocalStorage(tmp_path), *range(1, 30)).store
    Compaction(store).run()
    bases = set()
    for step in store.steps[:-1]:
        [chunk] = store.manifest(step).records["model/weights"].chunks
        base = chunk.encoding.base
        assert base is None or base.encoding is None or base.encoding.base is None
        bases.add(chunk.digest if base is None else base.digest)
    assert 1 < len(bases) < 10  # and the groups are bounded where differences grow
    check_all(store, list(range(1, 30)))


def test_a_base_has_neighbours_on_both_sides(tmp_path: Path):
    store = saved(LocalStorage(tmp_path), *range(1, 30)).store
    Compaction(store).run()
    order = {}
    for step in store.steps[:-1]:
        [chunk] = store.manifest(step).records["model/weights"].chunks
        base = chunk.encoding.base
        order[step] = (chunk.digest, None if base is None else base.digest)
    owner = {value: step for step, (value, _) in order.items()}
    ahead = [step for step, (_, base) in order.items() if base and owner[base] > step]
    behind = [step for step, (_, base) in order.items() if base and owner[base] < step]
    assert ahead
    assert behind


@pytest.mark.parametrize(("drift", "found"), [(0.2, "planes"), (1e-4, "differences")])
def test_differences_are_taken_where_they_save_enough(tmp_path: Path, drift: float, found: str):
    writer = Writer(Store.open_or_create(LocalStorage(tmp_path)))
    for step in (1, 2, 3):
        writer.save(State({"weights": drifting(step, drift)}), step)
    Compaction(writer.store).run()
    assert encodings(writer.store, 1, "weights") == ["planes"]
    assert encodings(writer.store, 2, "weights") == [found]
    for step in (1, 2, 3):
        assert np.array_equal(writer.store[step]["weights"], drifting(step, drift))


def drifting(step: int, drift: float) -> np.ndarray:
    start, direction = np.random.default_rng(0).standard_normal((2, 40_000)).astype(np.float32)
    return start + direction * np.float32(drift * step)


def test_what_any_safetensors_reader_finds(tmp_path: Path):
    store = saved(LocalStorage(tmp_path), 1, 2, 3).store
    Compaction(store).run()
    names = {pack.name for pack in store.manifest(2).packs}
    [own] = [name for name in names if "/00000000000000000002-" in name]
    found = safetensors.numpy.load_file(tmp_path / own)
    assert found["model/weights~planes"].dtype == np.uint8
    assert np.array_equal(found["model/noise"], run_state(2).leaves["model/noise"])


def test_it_goes_on_where_it_was(tmp_path: Path):
    writer = saved(LocalStorage(tmp_path), 1, 2, 3)
    assert Compaction(writer.store).run() == (1, 2)
    assert Compaction(writer.store).run() == ()
    for step in (4, 5):
        writer.save(run_state(step), step)
    assert Compaction(writer.store).run() == (3, 4)
    assert encodings(writer.store, 4, "model/weights") == ["differences"]  # to a base of before
    check_all(writer.store, [1, 2, 3, 4, 5])


def test_one_compaction_looks_at_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    writer = saved(LocalStorage(tmp_path), *range(1, 7))
    seen: list[int] = []
    document = Store.document
    monkeypatch.setattr(
        Store, "document", lambda self, step: seen.append(step) or document(self, step)
    )
    compaction = Compaction(writer.store)
    assert compaction.run() == (1, 2, 3, 4, 5)
    writer.save(run_state(7), 7)
    seen.clear()
    assert compaction.run() == (6,)
    assert set(seen) == {6, 7}
    assert encodings(writer.store, 6, "model/weights") == ["differences"]
    writer.save(run_state(8, frozen=1), 8)  # what was spared in all of them is no longer
    assert compaction.run() == (1, 2, 3, 4, 5, 6, 7)
    for step in range(1, 8):
        check(writer.store[step], run_state(step))


def test_what_is_unfrozen_later_is_compacted_then(tmp_path: Path):
    writer = saved(LocalStorage(tmp_path), 1, 2, 3)
    Compaction(writer.store).run()
    assert encodings(writer.store, 1, "model/frozen") == [None]
    writer.save(run_state(4, frozen=1), 4)
    assert Compaction(writer.store).run() == (1, 2, 3)
    for step in (1, 2, 3):
        assert encodings(writer.store, step, "model/frozen") == ["planes"]
    [pack] = {
        writer.store.manifest(step)
        .packs[writer.store.manifest(step).records["model/frozen"].chunks[0].file]
        .name
        for step in (1, 2, 3)
    }  # written once
    assert pack.startswith("data/00000000000000000001-")


def test_saves_and_restores_go_on_afterwards(tmp_path: Path):
    values = {"w": np.random.default_rng(0).standard_normal((64, 64))}
    checkpoint = milepost.Checkpoint(values=values)
    seen = {}
    for step in range(1, 7):
        values["w"] += 1e-5
        checkpoint.save(tmp_path / "store", step=step)
        seen[step] = values["w"].copy()
    report = milepost.compact(tmp_path / "store")
    assert report.steps == (1, 2, 3, 4, 5)
    for step in (3, 6, 1):
        checkpoint.restore(tmp_path / "store", step=step)
        assert np.array_equal(values["w"], seen[step])
    # What was restored from an encoded chunk is saved again as it is.
    assert checkpoint.save(tmp_path / "store", step=7).written == values["w"].nbytes
    assert np.array_equal(milepost.open(tmp_path / "store")[7]["values/w"], seen[1])


def test_a_restore_in_place_of_an_encoded_step_needs_no_second_copy(tmp_path: Path):
    """It is checked, then decoded straight into the live array, which keeps its address."""
    live = np.random.default_rng(0).standard_normal((512, 512))
    checkpoint = milepost.Checkpoint(w=live)
    before = live.copy()
    checkpoint.save(tmp_path, step=1)
    live += 1e-9
    checkpoint.save(tmp_path, step=2)
    milepost.compact(tmp_path)
    address = live.ctypes.data
    checkpoint.restore(tmp_path, step=1)
    assert checkpoint.w is live
    assert live.ctypes.data == address
    assert np.array_equal(live, before)


def test_a_checkpoint_that_is_open_is_read_to_the_end(tmp_path: Path):
    """Though its packs are removed meanwhile, before it has opened them."""
    saved(LocalStorage(tmp_path), 1, 2, 3, 4)
    store = Store.open(LocalStorage(tmp_path))
    lazy, half = store[2], store[3]
    np.asarray(half["model/table"])
    Compaction(Store.open(LocalStorage(tmp_path))).run()
    for checkpoint, step in ((lazy, 2), (half, 3), (store[1], 1)):
        check(checkpoint, run_state(step))
        checkpoint.check([name for name in checkpoint if checkpoint.is_checkable(name)])
    assert store.manifest(2).records["model/weights"].chunks[0].is_encoded


def test_a_checkpoint_that_is_overwritten_is_not_taken_for_a_compacted_one(tmp_path: Path):
    writer = saved(LocalStorage(tmp_path), 1)
    lazy = Store.open(LocalStorage(tmp_path))[1]
    writer.save(run_state(50, frozen=2), 1, overwrite=True)
    with pytest.raises(errors.StepNotFoundError, match="removed or overwritten"):
        np.asarray(lazy["model/weights"])


def test_a_damaged_step_stops_it_and_nothing_is_lost(tmp_path: Path):
    store = saved(LocalStorage(tmp_path), 1, 2, 3, 4).store
    [chunk] = store.manifest(2).records["model/weights"].chunks
    pack = tmp_path / store.manifest(2).packs[chunk.file].name
    data = bytearray(pack.read_bytes())
    data[chunk.position + 5] ^= 1
    pack.write_bytes(data)
    with pytest.raises(errors.DamagedError, match="model/weights"):
        Compaction(store).run()
    for step in (1, 3, 4):
        check(store[step], run_state(step))
    assert encodings(store, 2, "model/weights") == [None]
    assert [damage.leaf for damage in verify_store(store)] == ["model/weights", "model/same"]


@pytest.mark.parametrize("leaf", ["model/weights", "model/half", "model/table", "model/noise"])
def test_a_flipped_bit_in_an_encoded_chunk_is_noticed(tmp_path: Path, leaf: str):
    store = saved(LocalStorage(tmp_path), 1, 2, 3).store
    Compaction(store).run()
    found = store.manifest(2)
    [chunk] = found.records[leaf].chunks
    pack = tmp_path / found.packs[chunk.file].name
    sound = pack.read_bytes()
    for bit in range(0, chunk.stored_bytes * 8, max(1, chunk.stored_bytes * 8 // 97)):
        data = bytearray(sound)
        data[chunk.position + bit // 8] ^= 1 << bit % 8
        pack.write_bytes(data)
        with pytest.raises(errors.DamagedError, match=f"{leaf}.*newest intact step is 3"):
            np.asarray(Store.open(LocalStorage(tmp_path))[2][leaf])
        with pytest.raises(errors.DamagedError):
            Store.open(LocalStorage(tmp_path))[2].check([leaf])
    pack.write_bytes(sound)
    check_all(Store.open(LocalStorage(tmp_path)), [1, 2, 3])


def test_pruning_keeps_the_bases_that_are_needed(tmp_path: Path):
    store = saved(LocalStorage(tmp_path), *range(1, 6)).store
    Compaction(store).run()
    prune(store, lambda store: [3])  # its base is of a step that goes
    check_all(store, [3, 5])
    prune(store, lambda store: [])
    check_all(store, [5])
    assert len(os.listdir(tmp_path / "data")) == len(store.manifest(5).packs)


def test_a_step_that_is_overwritten_meanwhile_stays_overwritten():
    """Between reading a step and replacing its manifest, another process saves it anew."""
    storage = MemoryStorage()
    writer = saved(storage, 1, 2, 3)
    other = Writer(Store.open(storage))
    seen: list[int] = []

    class Late(Compaction):
        def _replaced(self, step, *arguments):
            if step == 1:
                other.save(run_state(40), 1, overwrite=True)
            done = super()._replaced(step, *arguments)
            seen.append(step) if done else None
            return done

    assert Late(writer.store).run() == (2,)
    assert seen == [2]
    check(Store.open(storage)[1], run_state(40))
    check(Store.open(storage)[2], run_state(2))
    assert list(verify_store(Store.open(storage))) == []


def test_a_base_that_is_pruned_meanwhile_is_missed_in_time():
    storage = MemoryStorage()
    writer = saved(storage, 1, 2, 3, 4)

    class Late(Compaction):
        def _replaced(self, step, *arguments):
            if step == 2:  # which has differences to step 1
                prune(Store.open(storage), lambda store: [2, 3, 4])
            return super()._replaced(step, *arguments)

    Late(writer.store).run()
    store = Store.open(storage)
    check_all(store, [2, 3, 4])


def test_a_save_that_refers_to_an_old_pack_keeps_it(tmp_path: Path):
    """A writer remembers where data lies; what it refers to in time is not removed."""
    writer = saved(LocalStorage(tmp_path), 1, 2)
    writer.save(run_state(1), 3)  # all of it lies in the pack of step 1
    Compaction(Store.open(LocalStorage(tmp_path))).run()
    writer.save(run_state(2), 4)  # of which the pack is gone
    check(writer.store[3], run_state(1))
    check(writer.store[4], run_state(2))
    assert list(verify_store(writer.store)) == []


def test_stopping_leaves_the_step_as_it_was(tmp_path: Path):
    store = saved(LocalStorage(tmp_path), 1, 2, 3).store
    before = sorted(os.listdir(tmp_path / "data"))
    asked = iter([False, False, True])
    assert Compaction(store, stopped=lambda: next(asked, True)).run() == ()
    assert sorted(os.listdir(tmp_path / "data")) == before
    check_all(store, [1, 2, 3])


def test_saves_go_on_in_other_threads(tmp_path: Path):
    writer = saved(LocalStorage(tmp_path), *range(1, 6))
    failed: list[BaseException] = []

    def save() -> None:
        try:
            for step in range(6, 26):
                writer.save(run_state(step), step)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=save)
    thread.start()
    while thread.is_alive():
        Compaction(Store.open(LocalStorage(tmp_path)), threads=1).run()
    thread.join()
    assert failed == []
    Compaction(writer.store).run()
    check_all(writer.store, list(range(1, 26)))
    assert encodings(writer.store, 24, "model/weights") != [None]


def test_an_older_milepost_is_told_to_upgrade(tmp_path: Path):
    """Only what needs a newer reader says that it does."""
    store = saved(LocalStorage(tmp_path), 1, 2).store
    Compaction(store).run()
    versions = [
        manifest_version(tmp_path / f"checkpoints/{step:020d}.json") for step in store.steps
    ]
    assert versions == [2, 1]


def manifest_version(path: Path) -> int:
    return int(path.read_bytes().split(b'"manifest":{"format":')[1].split(b",")[0])


def test_nothing_to_do(tmp_path: Path):
    store = saved(LocalStorage(tmp_path)).store
    assert Compaction(store).run() == ()
    saved(LocalStorage(tmp_path), 1)
    assert Compaction(store).run() == ()
