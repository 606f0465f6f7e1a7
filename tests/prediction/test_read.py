"""Inputs out of files of every kind, and what does not fit."""

from __future__ import annotations

import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from milepost import errors
from milepost.prediction import read_inputs

ONE = [{"name": "input", "dtype": "float32", "shape": [None, 2, 3]}]
TWO = [
    {"name": "a", "dtype": "float32", "shape": [None, 2]},
    {"name": "n", "dtype": "int32", "shape": [None]},
]
GREY = [{"name": "input", "dtype": "float32", "shape": [None, 4, 6]}]
RGB = [{"name": "input", "dtype": "uint8", "shape": [None, 4, 6, 3]}]
FIRST = [{"name": "input", "dtype": "float32", "shape": [None, 3, None, None]}]


@pytest.fixture
def x():
    return np.arange(24, dtype="f").reshape(4, 2, 3) / 7


@pytest.fixture
def folder(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", input=x)
    flat = x.reshape(4, 6)
    lines = [",".join(map(repr, map(float, row))) for row in flat]
    (tmp_path / "plain.csv").write_text("\n".join(lines) + "\n\n")
    (tmp_path / "header.csv").write_text("\ufeffa,b,c,d,e,f\n" + "\n".join(lines))
    columns = {f"c{i}": flat[:, i] for i in range(6)}
    pa.parquet.write_table(pa.table(columns), tmp_path / "columns.parquet")
    pa.parquet.write_table(pa.table({"input": flat.tolist()}), tmp_path / "flat.parquet")
    pa.parquet.write_table(pa.table({"input": x.tolist()}), tmp_path / "nested.parquet")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        *("x.npy", "x.npz", "plain.csv", "header.csv"),
        *("columns.parquet", "flat.parquet", "nested.parquet"),
    ],
)
def test_one_input_in_every_format(folder, x, name):
    [found] = read_inputs(str(folder / name), ONE).arrays
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, x)


def test_several_inputs(tmp_path):
    a, n = np.array([[1, 2], [3, 4]], "f"), np.array([5, 6], "i4")
    np.savez(tmp_path / "x.npz", n=n, a=a, other=n)
    (tmp_path / "x.csv").write_text("1,2,5\n3,4,6\n")
    table = pa.table({"n": n.astype("i8"), "a": a.tolist(), "other": n})
    pa.parquet.write_table(table, tmp_path / "x.parquet")
    for name in ("x.npz", "x.csv", "x.parquet"):
        first, second = read_inputs(str(tmp_path / name), TWO).arrays
        assert (first.dtype, second.dtype) == (np.float32, np.int32)
        assert (first == a).all()
        assert (second == n).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n4,5\n", "line 2 has 2 columns, the first has 3"),
        ("1,2,3\n4,x,6\n", "line 2, column 2: expected a number, found 'x'"),
        ("1,2,\n", "line 1, column 3: expected a number, found ''"),
        ("1,2\n", "found 2 columns"),
        ("a,b,c\n", "it has no rows"),
        ("", "it has no rows"),
        ("1,2,3.5\n", "would lose something as int32"),
        ("1,2,nan\n", "would lose something as int32"),
        ("1,2,1e12\n", "would lose something as int32"),
        ("1e39,2,3\n", "would lose something as float32"),
        ("1;2,5;3\n", "line 1, column 2: expected a number, found '2,5'"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(errors.UsageError, match=message):
        read_inputs(str(tmp_path / "x.csv"), TWO)


def test_other_separators_and_named_columns(tmp_path):
    named = [{"name": n, "dtype": "int64", "shape": [None]} for n in ("a", "b")]
    for text in ("b;a\n1;2\n", "b\ta\n1\t2\n", 'other,"b","a"\n9,"1","2"\n'):
        (tmp_path / "x.csv").write_text(text)
        a, b = read_inputs(str(tmp_path / "x.csv"), named).arrays
        assert (a, b) == ([2], [1])
    (tmp_path / "x.csv").write_text("9007199254740993,1\n")  # a float has no such number
    with pytest.raises(errors.UsageError, match="would lose something as int64"):
        read_inputs(str(tmp_path / "x.csv"), named)
    free = [{"name": "a", "dtype": "float32", "shape": [None, None, 3]}]
    with pytest.raises(errors.UsageError, match="no columns of a table"):
        read_inputs(str(tmp_path / "x.csv"), free)


def test_archives(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x)
    data = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npy").rename(tmp_path / "array.npz")
    (tmp_path / "x.npz").rename(tmp_path / "archive.npy")
    for name in ("array.npz", "archive.npy"):
        assert (read_inputs(str(tmp_path / name), ONE).arrays[0] == x).all()
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000, 3)}".ljust(117)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as bomb:
        bomb.writestr("input.npy", b"\x93NUMPY\1\0" + b"\x76\0" + head + b"\n")
    (tmp_path / "cut.npz").write_bytes(data[:99])
    (tmp_path / "flipped.npz").write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    for name in ("bomb.npz", "cut.npz", "flipped.npz"):
        with pytest.raises(errors.UnknownFormatError, match=name):
            read_inputs(str(tmp_path / name), ONE)


def test_folders_are_no_columns(tmp_path, x):
    (tmp_path / "rate=0.1").mkdir()
    columns = {f"c{i}": x.reshape(4, 6)[:, i] for i in range(6)}
    pa.parquet.write_table(pa.table(columns), tmp_path / "rate=0.1" / "x.parquet")
    assert (read_inputs(str(tmp_path / "rate=0.1" / "x.parquet"), ONE).arrays[0] == x).all()


def test_arrays_that_do_not_fit(tmp_path):
    for array, message in [
        (np.zeros((4, 6), "f"), r"expected float32\[any, 2, 3\], found float32\[4, 6\]"),
        (np.zeros((4, 2, 3)), "would lose something as float32"),
        (np.zeros((4, 2, 3), "c8"), "would lose something as float32"),
    ]:
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(errors.UsageError, match=message):
            read_inputs(str(tmp_path / "x.npy"), ONE)
    np.save(tmp_path / "x.npy", np.zeros((4, 2, 3), "i1"))
    assert read_inputs(str(tmp_path / "x.npy"), ONE).arrays[0].dtype == np.float32
    np.save(tmp_path / "x.npy", np.full((4, 2, 3), 2**24 + 1))
    with pytest.raises(errors.UsageError, match="would lose something as float32"):
        read_inputs(str(tmp_path / "x.npy"), ONE)
    with pytest.raises(errors.UsageError, match="takes .*'a', 'n'.*use a .npz"):
        read_inputs(str(tmp_path / "x.npy"), TWO)
    np.savez(tmp_path / "x.npz", a=np.zeros((1, 2), "f"))
    with pytest.raises(errors.UsageError, match=r"expected the arrays \['a', 'n'\], found \['a'\]"):
        read_inputs(str(tmp_path / "x.npz"), TWO)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_pickles_are_not_read(tmp_path):
    evil = np.array([Evil()], object)
    np.save(tmp_path / "x.npy", evil, allow_pickle=True)
    np.savez(tmp_path / "x.npz", input=evil)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(errors.UnknownFormatError):
            read_inputs(str(tmp_path / name), ONE)


def test_what_is_not_what_its_name_says(tmp_path):
    for extension in (".npy", ".npz", ".parquet", ".png"):
        path = tmp_path / f"x{extension}"
        for content in (b"", b"Dear reader"):
            path.write_bytes(content)
            with pytest.raises(errors.UnknownFormatError, match=str(path)):
                read_inputs(str(path), GREY)
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\0")
    with pytest.raises(errors.UsageError, match="no table of text"):
        read_inputs(str(tmp_path / "x.csv"), ONE)
    (tmp_path / "x.doc").touch()
    with pytest.raises(errors.UnknownFormatError, match="expected a folder of images, or one of"):
        read_inputs(str(tmp_path / "x.doc"), ONE)
    with pytest.raises(errors.PathNotFoundError):
        read_inputs(str(tmp_path / "nothing.npy"), ONE)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"input": [[1.0, 2.0], [1.0]]}, "lists of different lengths"),
        ({"input": ["a", "b"]}, "expected numbers, found string"),
        ({"input": [1.0, None]}, "1 empty cells"),
        ({"input": pa.array([], pa.float32())}, "no rows"),
    ],
)
def test_parquet_that_does_not_fit(tmp_path, columns, message):
    pa.parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(errors.UsageError, match=message):
        read_inputs(str(tmp_path / "x.parquet"), ONE)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (4, 6, 3), "u1")


def test_images(tmp_path, image):
    for index, extension in enumerate((".png", ".bmp", ".webp")):
        options = {"lossless": True} if extension == ".webp" else {}
        Image.fromarray(image // (index + 1)).save(tmp_path / f"{index}{extension}", **options)
    (tmp_path / "readme.txt").touch()
    found = read_inputs(str(tmp_path), RGB)
    assert found.names == ["0.png", "1.bmp", "2.webp"]
    np.testing.assert_array_equal(found.arrays[0], [image, image // 2, image // 3])
    [first] = read_inputs(str(tmp_path / "0.png"), FIRST, scale=1 / 255).arrays
    np.testing.assert_allclose(first[0], np.moveaxis(image, -1, 0) / 255, rtol=1e-6)
    [grey] = read_inputs(str(tmp_path / "0.png"), GREY).arrays
    assert (grey.shape, grey.dtype) == ((1, 4, 6), np.float32)
    assert grey.max() > 100


def test_a_photograph_that_was_taken_sideways(tmp_path, image):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(np.rot90(image)).save(tmp_path / "a.png", exif=exif)
    assert (read_inputs(str(tmp_path / "a.png"), RGB).arrays[0] == image).all()


def test_images_of_other_kinds(tmp_path, image):
    Image.fromarray(np.full((4, 6), 40_000, "u2")).save(tmp_path / "deep.png")
    with pytest.raises(errors.UsageError, match="expected pixels of 8 bits"):
        read_inputs(str(tmp_path / "deep.png"), GREY)
    # Pillow would start another program for this one.
    (tmp_path / "eps.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n%%EOF\n")
    with pytest.raises(errors.UnknownFormatError, match="cannot identify"):
        read_inputs(str(tmp_path / "eps.png"), GREY)
    Image.fromarray(np.full((4, 6, 3), 200, "u1")).save(tmp_path / "bright.png")
    signed = [{"name": "input", "dtype": "int8", "shape": [None, 4, 6, 3]}]
    with pytest.raises(errors.UsageError, match="would lose something as int8"):
        read_inputs(str(tmp_path / "bright.png"), signed)


def test_images_that_do_not_fit(tmp_path, image):
    Image.fromarray(image[:3]).save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    with pytest.raises(errors.UsageError, match="expected 6 x 4 pixels, found 6 x 3: --resize"):
        read_inputs(path, RGB)
    assert read_inputs(path, RGB, resize=True).arrays[0].shape == (1, 4, 6, 3)
    with pytest.raises(errors.UsageError, match="--scale is for floats"):
        read_inputs(path, RGB, scale=0.5)
    with pytest.raises(errors.UsageError, match="takes 2 inputs"):
        read_inputs(path, TWO)
    Image.fromarray(image).save(tmp_path / "b.png")
    with pytest.raises(errors.UsageError, match="different sizes"):
        read_inputs(str(tmp_path), FIRST)
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.UsageError, match="has no images"):
        read_inputs(str(tmp_path / "empty"), RGB)
