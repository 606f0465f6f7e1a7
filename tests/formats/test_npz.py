"""NumPy's archives of arrays, beside what NumPy reads."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

import milepost
from milepost.errors import DamagedError, MilepostError, UnknownFormatError, UntrustedError
from milepost.testing import FormatTests, same_value
from milepost.testing.watch import soon

CHANCE = np.random.default_rng(7)
ARRAYS = {
    "layer/kernel": CHANCE.normal(size=(50, 70)).astype(np.float32),
    "layer.bias": np.arange(70, dtype=">f8"),
    "fortran": np.asfortranarray(CHANCE.integers(0, 9, (30, 40))),
    "kernel.npy": np.array(3, np.int8),
    "flags": np.array([True, False, True]),
    "empty": np.zeros((0, 4), np.complex64),
    "äöü": np.ones(3, np.float16),
}


class TestStored(FormatTests):
    save = staticmethod(np.savez)

    def make(self, folder):
        path = folder / "model.npz"
        self.save(path, **ARRAYS)
        with np.load(path) as found:
            return path, dict(found)


class TestCompressed(TestStored):
    save = staticmethod(np.savez_compressed)


def test_a_flipped_bit_is_found_by_verify(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, first=np.zeros(1000), second=np.zeros(1000))
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    assert [damage.leaf for damage in milepost.verify(path)] == ["first"]


def test_a_flipped_bit_of_a_compressed_array_is_found_by_reading(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, first=CHANCE.normal(size=1000))
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    with milepost.open(path) as snapshot, pytest.raises(DamagedError):
        snapshot.read("first")


def test_many_compressed_arrays_are_read_in_parts_in_little_memory(tmp_path):
    path = tmp_path / "a.npz"
    large = np.arange(12_000_000, dtype=np.float32).reshape(3000, 4000)
    np.savez_compressed(path, large=large, turned=np.asfortranarray(large))
    with soon(0.15):
        snapshot = milepost.open(path)
    with snapshot:
        for name in snapshot:
            for box, part in snapshot.read_parts(name):
                same_value(part, large[tuple(slice(*pair) for pair in box)], name)


def test_objects_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", allow_pickle=True, a=np.array([{}], object))
    with pytest.raises(UntrustedError, match="Python objects"):
        milepost.open(tmp_path / "a.npz")


def archive(members, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, data in members:
            made.writestr(name, data)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


ONE = npy(np.arange(3))
HOSTILE = {
    "something else beside arrays": ([("a.npy", ONE), ("b.txt", b"text")], UnknownFormatError),
    "a member that is no array": ([("a.npy", b"text")], DamagedError),
    "a member that goes on": ([("a.npy", ONE + b"\0")], DamagedError),
    "a member cut short": ([("a.npy", ONE[:-1])], DamagedError),
    "a name that is nothing": ([(".npy", ONE)], DamagedError),
    "a path out of the archive": ([("../a.npy", ONE)], UntrustedError),
    "an absolute path": ([("/a.npy", ONE)], UntrustedError),
    "too many arrays": ([(f"{n}.npy", ONE) for n in range(40_000)], DamagedError),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(tmp_path, name):
    members, error = HOSTILE[name]
    (tmp_path / "a.npz").write_bytes(archive(members))
    with pytest.raises(error):
        milepost.open(tmp_path / "a.npz")


def test_a_bomb_is_not_inflated_to_be_opened(tmp_path):
    header = io.BytesIO()
    entry = {"descr": "|i1", "fortran_order": True, "shape": (1 << 13, 1 << 15)}
    np.lib.format.write_array_header_1_0(header, entry)
    data = archive([("a.npy", header.getvalue() + bytes(1 << 28))], zipfile.ZIP_DEFLATED)
    (tmp_path / "a.npz").write_bytes(data)
    with soon(0.15), milepost.open(tmp_path / "a.npz") as snapshot:
        assert snapshot.spec("a").shape == (1 << 13, 1 << 15)


def test_a_name_given_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = archive([("a.npy", ONE), ("a.npy", ONE)])
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(MilepostError):
        milepost.open(tmp_path / "a.npz")
