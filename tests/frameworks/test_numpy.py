"""NumPy: arrays of every dtype, scalars and generators."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import milepost
from milepost import Checkpoint, dtypes, errors
from milepost.testing import FrameworkTests


class TestArrays(FrameworkTests):
    def make(self):
        return np.arange(12, dtype=np.float32).reshape(3, 4)

    def change(self, value):
        value *= 3
        return value


class TestScalars(FrameworkTests):
    def make(self):
        return np.float16(1.5)

    def change(self, value):
        return np.float16(value * 2)


@pytest.mark.parametrize(
    "kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64]
)
class TestGenerators:
    def test_it_goes_on_from_where_it_was(self, tmp_path, kind):
        generator = np.random.Generator(kind(7))
        generator.integers(0, 10, 3, dtype=np.uint8)  # which buffers half a draw
        Checkpoint(g=generator).save(tmp_path)
        expected = generator.random(5).tolist()
        Checkpoint(g=generator).restore(tmp_path)
        assert generator.random(5).tolist() == expected


def every_dtype():
    return sorted(dtypes._DTYPES)


def sample(name: str) -> np.ndarray:
    dtype = dtypes.numpy_dtype(name)
    if name == "bool":
        return np.array([[True, False], [False, True]])
    draw = np.random.default_rng(0)
    if dtype.kind == "c":
        return (draw.standard_normal((3, 2)) + 1j * draw.standard_normal((3, 2))).astype(dtype)
    if name.startswith(("int", "uint")) or dtype.kind in "iu":
        low = 0 if name.startswith("u") else -1
        return draw.integers(low, 2, (3, 2)).astype(dtype)
    return draw.standard_normal((3, 2)).astype(dtype)


@pytest.mark.parametrize("name", every_dtype())
def test_every_dtype_comes_back_to_the_last_bit(tmp_path, name):
    array = sample(name)
    expected = array.tobytes()
    Checkpoint(a=array).save(tmp_path)
    snapshot = milepost.open(tmp_path).latest
    assert snapshot.spec("a").dtype == name
    loaded = np.asarray(snapshot["a"])
    assert loaded.dtype == array.dtype
    # The padding of a long double is not part of its value.
    assert loaded.tobytes() == expected
    target = np.zeros_like(array)
    Checkpoint(a=target).restore(tmp_path)
    assert target.tobytes() == expected
    assert milepost.verify(tmp_path) == []


@pytest.mark.parametrize("name", ["datetime64[ns]", "timedelta64[s]", "datetime64[D]"])
def test_times(tmp_path, name):
    array = np.array([1, -5, 2**40]).astype(name)
    Checkpoint(a=array).save(tmp_path)
    loaded = np.asarray(milepost.open(tmp_path).latest["a"])
    assert loaded.dtype == array.dtype
    assert (loaded == array).all()


def test_special_values_keep_every_bit(tmp_path):
    payload = np.array([0x7FC00001, 0xFFC12345, 0x80000000, 0x00000001], np.uint32).view(np.float32)
    Checkpoint(a=payload).save(tmp_path)
    loaded = np.asarray(milepost.open(tmp_path).latest["a"])
    assert loaded.view(np.uint32).tolist() == payload.view(np.uint32).tolist()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (1, 1, 1)])
def test_empty_and_zero_dimensional_arrays(tmp_path, shape):
    array = np.full(shape, 7, np.int16)
    target = np.zeros(shape, np.int16)
    Checkpoint(a=array).save(tmp_path)
    Checkpoint(a=target).restore(tmp_path)
    assert target.shape == shape
    assert np.array_equal(target, array)


def test_the_other_byte_order_has_the_same_values(tmp_path):
    array = np.arange(5, dtype=">f4")
    Checkpoint(a=array).save(tmp_path)
    target = np.zeros(5, ">f4")
    Checkpoint(a=target).restore(tmp_path)
    assert target.tolist() == [0, 1, 2, 3, 4]
    assert np.asarray(milepost.open(tmp_path).latest["a"]).dtype == np.dtype("<f4")


def test_fortran_order(tmp_path):
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    Checkpoint(a=array).save(tmp_path)
    target = np.zeros((2, 3), order="F")
    Checkpoint(a=target).restore(tmp_path)
    assert target.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert target.flags.f_contiguous


def test_an_array_that_is_read_only_is_replaced(tmp_path):
    frozen = np.zeros(3)
    frozen.flags.writeable = False
    Checkpoint(a=np.ones(3)).save(tmp_path)
    checkpoint = Checkpoint(a=frozen)
    checkpoint.restore(tmp_path)
    assert checkpoint.a.tolist() == [1, 1, 1]
    assert frozen.tolist() == [0, 0, 0]


def test_arrays_that_share_memory_are_tied():
    from milepost import frameworks
    from milepost.frameworks.base import capture_objects

    base = np.arange(4, dtype=ml_dtypes.bfloat16)
    objects = {"a": base, "b": base, "c": base[:2], "d": base.copy()}
    assert capture_objects(objects, frameworks.finder()).ties == {"b": "a"}


def test_a_masked_array_is_refused_for_its_mask(tmp_path):
    masked = np.ma.array([1.0, 2.0], mask=[False, True])
    with pytest.raises(errors.UnsupportedObjectError, match=r"a/0 is a masked array.*\.mask"):
        Checkpoint(a=[masked]).save(tmp_path)
    with pytest.raises(errors.UnsupportedObjectError, match="a is a masked array"):
        Checkpoint(a=np.ma.masked).save(tmp_path)


def test_an_array_of_strings_of_any_length_is_refused(tmp_path):
    with pytest.raises(errors.UnsupportedObjectError, match="a: dtype StringDType.* strings"):
        Checkpoint(a=np.array(["a", "bcd"], np.dtypes.StringDType())).save(tmp_path)
