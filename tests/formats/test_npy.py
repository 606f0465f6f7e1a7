"""NumPy's arrays in files of their own, beside what NumPy reads."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import milepost
from milepost.errors import DamagedError, UnknownFormatError, UntrustedError
from milepost.testing import FormatTests, same_value

CHANCE = np.random.default_rng(7)
NUMBERS = CHANCE.normal(size=(5, 7, 3)) * 100


class Npy(FormatTests):
    array = NUMBERS.astype(np.float32)

    def make(self, folder):
        path = folder / "kernel.npy"
        np.save(path, self.array)
        return path, {"array": np.load(path)}


class TestNumbers(Npy):
    pass


class TestFortranOrder(Npy):
    array = np.asfortranarray(NUMBERS)


class TestBigEndian(Npy):
    array = NUMBERS.astype(">i2")


class TestBigEndianInFortranOrder(Npy):
    array = np.asfortranarray(NUMBERS.astype(">c8"))


class TestOneNumber(Npy):
    array = np.array(3.5)


class TestNothing(Npy):
    array = np.zeros((0, 4), np.int8)


class TestTimes(Npy):
    array = np.arange(20).astype("M8[25s]").reshape(4, 5)


class TestByteStrings(Npy):
    array = np.array([[b"cat", b"", b"a\x00b"], [b"horse", b"\xff", b"end"]])

    def make(self, folder):
        path, found = super().make(folder)
        return path, {"array": found["array"].astype(object)}


class TestTexts(Npy):
    array = np.asfortranarray(np.array([["cat", "", "Schlüssel"], ["\U0001f409", "ü", "end"]]))

    def make(self, folder):
        path, found = super().make(folder)
        encoded = np.array([[text.encode() for text in row] for row in found["array"]], object)
        return path, {"array": encoded}


@pytest.mark.parametrize(
    "dtype",
    [*np.typecodes["AllInteger"], *np.typecodes["Float"], *"?FDG", "M8[ns]", "m8[D]", "m8", "M8"],
)
@pytest.mark.parametrize("order", "<>")
def test_every_type_of_numpy(tmp_path, dtype, order):
    array = CHANCE.integers(0, 2, 12).astype(np.dtype(dtype).newbyteorder(order)).reshape(3, 4)
    np.save(tmp_path / "a.npy", array)
    with milepost.open(tmp_path / "a.npy") as snapshot:
        same_value(np.asarray(snapshot["array"]), array, dtype)
        assert snapshot.read("array").dtype.isnative


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e5m2])
def test_types_that_numpy_writes_and_does_not_read(tmp_path, dtype):
    array = NUMBERS.astype(dtype)
    np.save(tmp_path / "a.npy", array)
    with milepost.open(tmp_path / "a.npy") as snapshot:
        same_value(snapshot.read("array"), array, str(dtype))


def test_types_without_a_name_come_as_bytes(tmp_path):
    array = NUMBERS.astype(ml_dtypes.float8_e4m3fn)
    np.save(tmp_path / "a.npy", array)
    with milepost.open(tmp_path / "a.npy") as snapshot:
        same_value(snapshot.read("array"), array.view(np.uint8), "a")
        assert snapshot.record("array").kind == "<V1"


def test_void_comes_as_bytes_along_an_axis_more(tmp_path):
    array = np.asfortranarray(NUMBERS.astype(np.float32).view("V4").reshape(5, 21))
    np.save(tmp_path / "a.npy", array)
    with milepost.open(tmp_path / "a.npy") as snapshot:
        expected = np.ascontiguousarray(array).view(np.uint8).reshape(5, 21, 4)
        same_value(snapshot.read("array"), expected, "a")
        same_value(snapshot["array"][1:3, :, 1], expected[1:3, :, 1], "a")


def test_a_string_alone_is_a_plain_value(tmp_path):
    np.save(tmp_path / "a.npy", np.array("Schlüssel"))
    with milepost.open(tmp_path / "a.npy") as snapshot:
        assert snapshot["array"] == "Schlüssel".encode()


def test_a_large_array_in_another_order_is_read_in_parts(tmp_path):
    array = np.asfortranarray(np.arange(3000 * 2000, dtype=">f4").reshape(3000, 2000))
    np.save(tmp_path / "a.npy", array)
    with milepost.open(tmp_path / "a.npy") as snapshot:
        for box, part in snapshot.read_parts("array"):
            same_value(part, array[tuple(slice(*pair) for pair in box)], str(box))
        same_value(snapshot["array"][7], array[7], "row")
        same_value(snapshot["array"][:, 7], array[:, 7], "column")
        same_value(snapshot["array"][5:2000, 30:1700], array[5:2000, 30:1700], "box")


def test_objects_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(UntrustedError, match="Python objects, which are pickled"):
        milepost.open(tmp_path / "a.npy")


def test_records_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3, [("a", "<f4"), ("b", "<i4")]))
    with pytest.raises(UnknownFormatError, match="records"):
        milepost.open(tmp_path / "a.npy")


@pytest.mark.parametrize("descr", ["<f3", "<i16", "<q8", "<M8[parsec]", "<m4", "|b2"])
def test_types_that_are_none_are_refused(tmp_path, descr):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,), }}\n".encode()
    itemsize = int(descr[2:].partition("[")[0])
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(itemsize)
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(UnknownFormatError, match="unknown here"):
        milepost.open(tmp_path / "a.npy")


def test_what_follows_the_array_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with (tmp_path / "a.npy").open("ab") as file:
        file.write(b"\n")
    with pytest.raises(DamagedError):
        milepost.open(tmp_path / "a.npy")


def test_a_text_that_is_not_unicode_is_damaged(tmp_path):
    np.save(tmp_path / "a.npy", np.array(["abc", "def"]))
    data = bytearray((tmp_path / "a.npy").read_bytes())
    data[-2] = 0x7F
    (tmp_path / "a.npy").write_bytes(data)
    with milepost.open(tmp_path / "a.npy") as snapshot, pytest.raises(DamagedError):
        snapshot.read("array")
