"""HDF5 files that were made to do harm: each is refused, at once, and in little memory."""

from __future__ import annotations

import itertools
import os
import struct
import tracemalloc

import numpy as np
import pytest

import milepost
from milepost.errors import DamagedError, MilepostError, UnknownFormatError, UntrustedError
from milepost.testing.mutation import read_through
from milepost.testing.watch import soon

h5py = pytest.importorskip("h5py")


def soft_link(file):
    file["link"] = h5py.SoftLink("/x")


def link_to_another_file(file):
    file["link"] = h5py.ExternalLink("/etc/passwd", "/")


def elements_in_another_file(file):
    file.create_dataset("secret", (16,), "u1", external=[("/etc/passwd", 0, 16)])


def virtual_dataset(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    file.create_virtual_dataset("virtual", layout)


def references(file):
    file.create_dataset("to", (1,), h5py.ref_dtype)[0] = file["x"].ref


def regions(file):
    file.create_dataset("to", (1,), h5py.regionref_dtype)[0] = file["x"].regionref[:2]


def group_in_itself(file):
    file["a/b/c"] = file.create_group("a")


def ways_without_end(file):
    groups = [file.create_group(f"g{i}") for i in range(40)]
    for above, below in itertools.pairwise(groups):
        above["left"] = above["right"] = below


def chunks_of_nothing(file):
    file.create_dataset("huge", (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip")


def fill_value_of_a_terabyte(file):
    file.create_dataset("huge", (1 << 38,), "f4", fillvalue=1.0)


def chunk_of_zeros(file):
    file.create_dataset("x2", data=np.zeros(64 << 20, "u1"), chunks=(64 << 20,), compression="gzip")


def strings_of_one_place(file):
    file.create_dataset("x2", (1 << 40,), h5py.string_dtype(), chunks=(1 << 20,))


def a_path_for_a_name(file):
    file.create_group("a")[b"\x01\x02"] = file["x"]


MADE = {
    soft_link: UntrustedError,
    link_to_another_file: UntrustedError,
    elements_in_another_file: UntrustedError,
    virtual_dataset: UntrustedError,
    references: UntrustedError,
    regions: UntrustedError,
    group_in_itself: UntrustedError,
    ways_without_end: UntrustedError,
    chunks_of_nothing: UntrustedError,
    fill_value_of_a_terabyte: UntrustedError,
    strings_of_one_place: UntrustedError,
    a_path_for_a_name: DamagedError,
}


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__)
def test_it_is_refused(make, libver, tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver=libver) as file:
        file["x"] = np.arange(8.0)
        make(file)
    with soon(5), pytest.raises(MADE[make]):
        milepost.open(path)


def test_a_filter_of_a_plugin_is_not_loaded(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(64.0), chunks=(8,), compression="lzf")
    path.write_bytes(
        path.read_bytes().replace(struct.pack("<HH", 32000, 8), struct.pack("<HH", 32001, 8))
    )
    with pytest.raises(UnknownFormatError, match="filter number 32001"):
        milepost.open(path)


def test_a_chunk_that_inflates_a_thousandfold_is_read_as_what_it_says(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        chunk_of_zeros(file)
    with milepost.open(path) as snapshot:
        tracemalloc.start()
        assert not snapshot["x2"][:10].any()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 300 << 20


def test_chunks_over_one_another_are_refused(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", data=np.arange(64.0), chunks=(8,))
        first, second = (x.id.get_chunk_info(i).byte_offset for i in range(2))
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<Q", second), struct.pack("<Q", first)))
    with milepost.open(path) as snapshot, pytest.raises(UntrustedError, match="over one another"):
        snapshot.read("x")


def test_strings_that_are_all_one_are_not_read_without_end(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=["a" * 5_000_000] + ["b"] * 1000, dtype=h5py.string_dtype())
        place = file["x"].id.get_offset()
    data = bytearray(path.read_bytes())
    data[place : place + 16 * 1001] = data[place : place + 16] * 1001
    path.write_bytes(data)
    with milepost.open(path) as snapshot, pytest.raises(UntrustedError):
        snapshot.read("x")


def test_bytes_at_random_behind_the_mark(tmp_path):
    path = tmp_path / "x.h5"
    chance = np.random.default_rng(7)
    for _ in range(200):
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + chance.bytes(int(chance.integers(0, 400))))
        with pytest.raises(MilepostError):
            milepost.open(path)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_every_byte_of_a_small_file_changed(libver, tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver=libver) as file:
        file.create_dataset("a/b", data=np.arange(4.0), chunks=(2,), compression="gzip")
        file.attrs["text"] = "hello"
        file["text"] = "hello"
    data = path.read_bytes()
    step = 1 if os.environ.get("MILEPOST_FUZZ") else 29
    for place in range(0, len(data), step):
        for value in (0, 0xFF, data[place] ^ 0x80, data[place] + 1 & 0xFF):
            path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
            read_through(path)
