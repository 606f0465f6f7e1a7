"""HDF5 files, beside what h5py reads."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import milepost
from milepost.errors import DamagedError, UnknownFormatError
from milepost.snapshot import Snapshot
from milepost.testing import FormatTests
from milepost.testing.format import same_value

h5py = pytest.importorskip("h5py")

DTYPES = (
    *("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16", "?"),
    *(">u2", ">i4", ">i8", ">f2", ">f4", ">f8", ">c8", ">c16"),
)
LAYOUTS = {
    "plain": {},
    "chunked": {"chunks": (8, 8)},
    "one chunk": {"chunks": (37, 23)},
    "single elements": {"chunks": (1, 23)},
    "gzip": {"chunks": (8, 8), "compression": "gzip", "shuffle": True},
    "gzip, one chunk": {"chunks": (37, 23), "compression": "gzip"},
    "lzf": {"chunks": (10, 7), "compression": "lzf"},
    "checked": {"chunks": (5, 23), "fletcher32": True},
    "all": {"chunks": (16, 4), "compression": "gzip", "shuffle": True, "fletcher32": True},
}


def numbers(shape=(37, 23), dtype="f4"):
    chance = np.random.default_rng(7)
    return (chance.normal(size=shape) * 50).astype(dtype)


def expected_of(path):
    """What h5py finds, by the names of our leaves."""
    found = {}

    def visit(group, above):
        for name in group:
            item, where = group[name], f"{above}/{name}" if above else name
            if isinstance(item, h5py.Group):
                visit(item, where)
            elif isinstance(item, h5py.Dataset):
                found.update(leaves(where, item))

    with h5py.File(path, "r") as file:
        visit(file, "")
    return found


def leaves(name, dataset):
    value = dataset[()]
    if isinstance(value, h5py.Empty):
        return {name: None}
    if isinstance(value, bytes):
        return {name: bytes(value)}
    if dataset.attrs.get("dtype") == "bfloat16":
        return {name: np.asarray(value).view(ml_dtypes.bfloat16)}
    value = np.asarray(value)
    if value.dtype.names and not np.iscomplexobj(value):
        return {f"{name}/{field}": plain(value[field]) for field in value.dtype.names}
    return {name: plain(value)}


def plain(value):
    if value.dtype.kind in "SO":
        return np.asarray(value.astype(object))
    if value.dtype.kind == "V":
        return np.frombuffer(value.tobytes(), np.uint8).reshape(*value.shape, -1)
    return value


class TestPlain(FormatTests):
    """What Keras writes is of this kind."""

    def make(self, folder):
        path = folder / "file.h5"
        with h5py.File(path, "w") as file:
            for dtype in DTYPES:
                file[f"numbers/{dtype}"] = numbers((3, 5), "i1").astype(dtype)
            file["scalar"] = 3.5
            file["text"] = "hëllo"
            file["texts"] = np.array(["a", "bcd", "", "é"], object)
            file["fixed texts"] = np.array([[b"a", b"bcd"]])
            file["fixed text"] = np.bytes_(b"abc")
            file["empty"] = np.zeros((0, 3))
            file["nothing"] = h5py.Empty("f4")
            file["bfloat16"] = np.arange(4).astype(ml_dtypes.bfloat16)
            file["bfloat16"].attrs["dtype"] = "bfloat16"
            file["opaque"] = np.void(b"12345")
            file["levels"] = np.array([1, 2], h5py.enum_dtype({"A": 1, "B": 2}, "i4"))
            file["table"] = np.array(
                [(1, 2.5, b"xy", (1, 2)), (3, 4.5, b"z", (3, 4))],
                [("a", "i4"), ("b", ">f8"), ("c", "S3"), ("d", "f4", 2)],
            )
            file.create_dataset("compact", data=numbers((3, 2)), chunks=None)
            file.create_dataset("unwritten", (4, 5), fillvalue=7.0)
            file["the same"] = file["scalar"]
            file["type"] = np.dtype("f4")
            file.create_dataset("of that type", data=np.arange(3), dtype=file["type"])
        return path, expected_of(path)


class TestChunked(FormatTests):
    options: dict = {}

    def make(self, folder):
        path = folder / "file.h5"
        with h5py.File(path, "w", **self.options) as file:
            for name, options in LAYOUTS.items():
                file.create_dataset(name, data=numbers(), **options)
            file.create_dataset("zeros", data=np.zeros((300, 40)), compression="lzf")
            file.create_dataset("odd", data=np.arange(7, dtype="u1"), fletcher32=True, chunks=(7,))
            sparse = file.create_dataset("sparse", (100, 100), chunks=(10, 10), fillvalue=3)
            sparse[55:60] = 1
            file.create_dataset("texts", data=np.array([b"ab", b"c"] * 20), chunks=(8,))
        return path, expected_of(path)


class TestNew(TestChunked):
    """The newer structures of HDF5, by which each of these is written in another way."""

    options = {"libver": "latest"}


class TestBehindABlock(TestChunked):
    options = {"userblock_size": 1024}
    executions = 50


class TestMany(FormatTests):
    """Groups of so many members that they lie in heaps of their own."""

    executions = 60

    def make(self, folder):
        path = folder / "file.h5"
        with h5py.File(path, "w", track_order=True) as file:
            group = file.create_group("many")
            for index in range(700):
                group[f"item {index:04}"] = np.float32(index)
            for index in range(60):
                group.attrs[f"attribute {index}"] = index
        return path, expected_of(path)

    def test_so_are_their_attributes(self, tmp_path):
        path, _ = self.make(tmp_path)
        with opened(path) as snapshot:
            assert snapshot.metadata["many"] == {f"attribute {i}": i for i in range(60)}


def opened(path):
    found = milepost.open(path)
    assert isinstance(found, Snapshot)
    return found


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "latest"])
def test_every_version_of_the_format_is_read(libver, tmp_path):
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver=(libver, "latest")) as file:
        group = file.create_group("a/b/c")
        for index in range(20):
            group[f"x{index}"] = numbers((4, 5))
            group.attrs[f"x{index}"] = index
    with opened(path) as snapshot:
        assert snapshot.facts()["format"] == "HDF5"
        for name, value in expected_of(path).items():
            same_value(snapshot.read(name), value, name)


def test_attributes_are_metadata(tmp_path):
    path = tmp_path / "file.h5"
    values = {
        "text": "é",
        "bytes": np.bytes_(b"abc"),
        "texts": ["a", "é"],
        "fixed": [b"a", b"bc"],
        "number": 3,
        "numbers": np.arange(3.0),
        "flag": True,
        "nothing": h5py.Empty("f4"),
        "complex": 1 + 2j,
        "long": "x" * 100_000,
    }
    with h5py.File(path, "w") as file:
        file.create_group("group").attrs.update(values)
        file["reference"] = 1
        file["reference"].attrs["to"] = file["group"].ref
    with opened(path) as snapshot:
        assert snapshot.metadata["group"] == {
            "text": "é",
            "bytes": "abc",
            "texts": ["a", "é"],
            "fixed": ["a", "bc"],
            "number": 3,
            "numbers": [0.0, 1.0, 2.0],
            "flag": True,
            "nothing": None,
            "complex": [1.0, 2.0],
            "long": "(100,000 characters)",
        }
        assert snapshot.metadata["reference"] == {"to": "(of a type that is not read)"}


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        ({"maxshape": (None, 23), "chunks": (8, 8), "data": numbers()}, "grow along one axis"),
        ({"maxshape": (None, None), "chunks": (8, 8), "data": numbers()}, "along several"),
        ({"scaleoffset": 3, "chunks": (8, 8), "data": numbers(dtype="i4")}, "scaleoffset"),
        ({"shape": (3,), "dtype": h5py.vlen_dtype("i4")}, "variable lengths"),
    ],
)
def test_what_is_not_read_is_named(feature, words, tmp_path):
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("x", **feature)
    with pytest.raises(UnknownFormatError, match=words):
        milepost.open(path)


def test_a_changed_chunk_is_noticed(tmp_path):
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=numbers(), chunks=(37, 23), fletcher32=True)
        place = file["x"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place + 100] ^= 1
    path.write_bytes(data)
    with opened(path) as snapshot, pytest.raises(DamagedError, match="checksum"):
        snapshot.read("x")
    assert [damage.leaf for damage in milepost.verify(path)] == ["x"]


def test_h5py_is_not_needed(tmp_path):
    path, _ = TestChunked().make(tmp_path)
    program = (
        "import sys; sys.modules['h5py'] = None; import milepost\n"
        "print(sum(s.read(n).size for s in [milepost.open(sys.argv[1])] for n in s))"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, check=True)
    assert int(done.stdout) > 0
