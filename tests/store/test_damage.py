"""Promise 3: what is loaded is what was saved, or an error says why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from milepost import Checkpoint, errors
from milepost.opening import verify
from milepost.state import State
from milepost.storage.local import LocalStorage
from milepost.store import Store, Writer

from .conftest import check, make_state, values


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with two small checkpoints that share a leaf."""
    writer = Writer(Store.open_or_create(LocalStorage(tmp_path / "store")))
    for step in (1, 2):
        shared = np.arange(6, dtype=np.float32)
        own = np.arange(4, dtype=np.int64) + step
        writer.save(State({"shared": shared, "own": own, "note": f"step {step}"}), step)
    return tmp_path / "store"


def _files(folder: Path) -> list[Path]:
    """All but the note of the newest steps, whose damage is `test_names.py`'s."""
    (folder / "newest.json").unlink(missing_ok=True)
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


def _read_all(folder: Path) -> dict[int, dict]:
    store = Store.open(LocalStorage(folder))
    return {step: values(store[step]) for step in store.steps}


def _positions(data: bytearray) -> list[int]:
    """Every byte, but of the header's padding only some."""
    padding = data.find(b" " * 100)
    end = padding + len(data[padding:]) - len(data[padding:].lstrip(b" ")) if padding >= 0 else 0
    return [p for p in range(len(data)) if not padding <= p < end or p % 64 == 0]


# One bit of every byte, or all eight.
BITS = [
    lambda position: [5 * position % 8],
    pytest.param(lambda _: range(8), marks=pytest.mark.slow),
]
# Of the lengths of a file every fifth and the last, or all.
STEPS = [5, pytest.param(1, marks=pytest.mark.slow)]


@pytest.mark.parametrize("bits", BITS, ids=["one", "all"])
def test_every_single_flipped_bit_is_detected_or_harmless(folder: Path, bits):
    intact = _read_all(folder)
    files = _files(folder)
    assert {f.parent.name for f in files} == {"store", "checkpoints", "data"}
    for file in files:
        data = bytearray(file.read_bytes())
        for position in _positions(data):
            for bit in bits(position):
                data[position] ^= 1 << bit
                file.write_bytes(data)
                data[position] ^= 1 << bit
                try:
                    assert _read_all(folder) == intact, (file.name, position, bit)
                except (errors.DamagedError, errors.VersionError):
                    pass
                else:
                    # Harmless to read; and `verify` sees even so that the file is not as it was.
                    assert verify(folder) != [], (file.name, position, bit)
        file.write_bytes(data)
    assert _read_all(folder) == intact
    assert verify(folder) == []


@pytest.mark.parametrize("step", STEPS)
def test_every_truncation_is_detected(folder: Path, step: int):
    intact = _read_all(folder)
    for file in _files(folder):
        data = file.read_bytes()
        for length in sorted({*range(0, len(data), step), len(data) - 1}):
            file.write_bytes(data[:length])
            with pytest.raises((errors.DamagedError, errors.NotAStoreError)):
                assert _read_all(folder) == intact
        file.write_bytes(data + b"\0")
        with pytest.raises(errors.DamagedError):
            _read_all(folder)
        file.write_bytes(data)
    assert _read_all(folder) == intact


def test_a_damaged_pack_names_file_leaf_and_the_newest_intact_step(folder: Path):
    pack = sorted((folder / "data").iterdir())[-1]
    _flip(pack, -1)
    store = Store.open(LocalStorage(folder))
    with pytest.raises(errors.DamagedError) as caught:
        store[2].read("own")
    message = str(caught.value)
    assert pack.name in message
    assert "'own'" in message
    assert "newest intact step is 1: restore with step=1" in message
    check(
        store[1],
        State(
            {"shared": np.arange(6, dtype=np.float32), "own": np.arange(4) + 1, "note": "step 1"}
        ),
    )


def test_a_damaged_manifest_names_the_newest_intact_step(folder: Path):
    manifest = sorted((folder / "checkpoints").iterdir())[-1]
    _flip(manifest, 200)
    with pytest.raises(errors.DamagedError, match=rf"{manifest.name} is damaged.*intact step is 1"):
        _ = Store.open(LocalStorage(folder)).latest


def test_a_missing_pack(folder: Path):
    first, second = sorted((folder / "data").iterdir())
    first.unlink()
    store = Store.open(LocalStorage(folder))
    assert np.asarray(store[2]["own"]).tolist() == [2, 3, 4, 5]  # it lies in the other one
    with pytest.raises(
        errors.DamagedError, match=f"{first.name} is missing.*no other step is intact"
    ):
        store[2].read("shared")
    assert f"{first.name}: is missing" in str(verify(folder)[0])
    second.unlink()
    assert len({damage.file for damage in verify(folder)}) == 2


def test_a_manifest_under_another_step_is_noticed(folder: Path):
    manifest = folder / "checkpoints" / f"{1:020d}.json"
    manifest.rename(folder / "checkpoints" / f"{5:020d}.json")
    with pytest.raises(errors.DamagedError, match="should be of step 5, but is of step 1"):
        Store.open(LocalStorage(folder))[5]


def test_a_manifest_that_points_out_of_the_store_is_refused(folder: Path):
    from milepost import sealed

    manifest = folder / "checkpoints" / f"{2:020d}.json"
    body = sealed.unseal("manifest", manifest.read_bytes(), "it")
    for name in ("../../etc/passwd", "/etc/passwd", "data/../x.safetensors", "checkpoints/x"):
        body["packs"][0]["name"] = name
        manifest.write_bytes(sealed.seal("manifest", body))
        with pytest.raises(errors.DamagedError, match="expected the name of a pack"):
            Store.open(LocalStorage(folder))[2]


def test_a_restore_from_damage_changes_nothing(folder: Path, tmp_path: Path):
    path = tmp_path / "runs"
    saved = Checkpoint(a=np.arange(5.0), b=np.arange(7.0))
    saved.save(path)
    [pack] = (path / "data").iterdir()
    _flip(pack, -1)
    a, b = np.zeros(5), np.zeros(7)
    with pytest.raises(errors.DamagedError):
        Checkpoint(a=a, b=b).restore(path)
    assert not a.any()
    assert not b.any()


def test_a_damaged_newest_checkpoint_does_not_stop_the_next_save(folder: Path):
    _flip(sorted((folder / "checkpoints").iterdir())[-1], 300)
    store = Store.open(LocalStorage(folder))
    Writer(store).save(make_state(3), 3)
    check(store[3], make_state(3))


def _flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)
