"""Dtypes: their names, their codes in a safetensors file, and their bytes on disk."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import container, dtypes
from milepost.errors import UnsupportedObjectError
from milepost.storage.memory import MemorySource

NUMPY_NAMES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
]
EXTENSION_NAMES = [
    name
    for name in (
        *("bfloat16", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn"),
        *("float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
        *("float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn"),
        *("int1", "int2", "int4", "uint1", "uint2", "uint4"),
    )
    if hasattr(ml_dtypes, name)
]
TIME_NAMES = ["datetime64", "datetime64[ns]", "datetime64[25s]", "timedelta64[D]"]
HAS_X87 = np.dtype(np.longdouble).itemsize == 16 and np.finfo(np.longdouble).nmant == 63
X87_NAMES = ["x87_float128", "x87_complex256"] if HAS_X87 else []
NAMES = [*NUMPY_NAMES, *EXTENSION_NAMES, *TIME_NAMES, *X87_NAMES]

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def filled(name, shape):
    """An array of this dtype in which the bytes of every element differ from one another."""
    dtype = dtypes.numpy_dtype(name)
    if name == "bool":
        return np.arange(math.prod(shape)).reshape(shape) % 2 == 1
    size = math.prod(shape) * dtype.itemsize
    return np.arange(1, size + 1).astype(np.uint8).view(dtype).reshape(shape)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_leads_to_a_dtype_that_has_this_name(name):
    assert dtypes.dtype_name(dtypes.numpy_dtype(name)) == name


@pytest.mark.parametrize("name", [*NUMPY_NAMES, *TIME_NAMES])
def test_a_name_is_numpys_own(name):
    assert dtypes.numpy_dtype(name) == np.dtype(name)


@pytest.mark.parametrize("name", EXTENSION_NAMES)
def test_the_name_of_an_extension_is_that_of_ml_dtypes(name):
    assert dtypes.numpy_dtype(name) == np.dtype(getattr(ml_dtypes, name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", ["<", ">", "="])
def test_a_name_does_not_depend_on_the_byte_order(name, order):
    assert dtypes.dtype_name(dtypes.numpy_dtype(name).newbyteorder(order)) == name


@pytest.mark.parametrize(
    ("alias", "name"), [("q", "int64"), ("Q", "uint64"), ("p", "int64"), ("?", "bool")]
)
def test_an_alias_of_a_dtype_has_the_name_of_its_size(alias, name):
    assert dtypes.dtype_name(np.dtype(alias)) == name


@pytest.mark.parametrize("name", ["datetime64[us]", "timedelta64[3D]"])
def test_a_time_keeps_its_unit(name):
    assert np.datetime_data(dtypes.numpy_dtype(name)) == np.datetime_data(np.dtype(name))


@pytest.mark.parametrize("dtype", ["O", "S3", "U2", "V4", [("a", "<i4")], "(2,)f4"])
def test_objects_strings_and_records_are_refused_by_name(dtype):
    with pytest.raises(UnsupportedObjectError, match="cannot be saved"):
        dtypes.dtype_name(np.dtype(dtype))


@pytest.mark.parametrize(
    "name", ["", "float", "object", "str", "<f4", "f4", "float32 ", "float128", "Float32", "V4"]
)
def test_a_name_that_is_none_of_ours_is_a_key_error(name):
    with pytest.raises(KeyError):
        dtypes.numpy_dtype(name)


@pytest.mark.parametrize("name", ["datetime64[", "datetime64[ns]x", "datetime64[object]", "M8[s]"])
def test_what_only_begins_like_a_time_is_a_key_error(name):
    with pytest.raises(KeyError):
        dtypes.numpy_dtype(name)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *(("bool", "BOOL"), ("uint8", "U8"), ("int8", "I8"), ("uint16", "U16"), ("int16", "I16")),
        *(("float16", "F16"), ("bfloat16", "BF16"), ("uint32", "U32"), ("int32", "I32")),
        *(("float32", "F32"), ("uint64", "U64"), ("int64", "I64"), ("float64", "F64")),
        *(("complex64", "C64"), ("float8_e4m3fn", "F8_E4M3"), ("float8_e5m2", "F8_E5M2")),
    ],
)
def test_a_dtype_that_safetensors_has_keeps_its_shape(name, code):
    assert dtypes.container_type(name, (2, 3)) == (code, (2, 3))
    assert dtypes.CODE_NAMES[code] == name


@pytest.mark.parametrize("name", ["complex128", "datetime64[ns]", *X87_NAMES])
def test_a_wide_dtype_that_safetensors_lacks_lies_there_as_bytes(name):
    itemsize = dtypes.numpy_dtype(name).itemsize
    assert dtypes.container_type(name, (2, 3)) == ("U8", (2, 3, itemsize))


@pytest.mark.parametrize("name", ["int4", "float8_e4m3"])
def test_a_one_byte_dtype_that_safetensors_lacks_lies_there_under_its_own_shape(name):
    assert dtypes.container_type(name, (2, 3)) == ("U8", (2, 3))


@pytest.mark.parametrize("name", NAMES)
@given(shape=shapes)
@settings(deadline=None, max_examples=10)
def test_a_container_type_has_as_many_bytes_as_the_array(name, shape):
    array = np.empty(shape, dtypes.numpy_dtype(name))
    code, stored_shape = dtypes.container_type(name, shape)
    itemsize = dtypes.numpy_dtype(dtypes.CODE_NAMES[code]).itemsize
    assert math.prod(stored_shape) * itemsize == array.nbytes
    assert len(dtypes.byte_view(array)) == array.nbytes


@pytest.mark.parametrize("code", dtypes.CODE_NAMES)
def test_the_container_counts_the_bytes_of_a_code_as_numpy_does(code):
    nbytes = 6 * dtypes.numpy_dtype(dtypes.CODE_NAMES[code]).itemsize
    header, _ = container.build_header([("a", code, (2, 3), nbytes)], {})
    assert (
        container.read_header(MemorySource("f", header + bytes(nbytes))).tensors["a"].nbytes
        == nbytes
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 2)])
def test_a_big_endian_array_is_stored_little_endian(name, shape):
    native = filled(name, shape)
    swapped = native.astype(native.dtype.newbyteorder(">"))
    stored = dtypes.to_stored(swapped)
    assert stored.shape == shape
    assert dtypes.dtype_name(stored.dtype) == name
    assert (
        bytes(dtypes.byte_view(stored)) == native.astype(native.dtype.newbyteorder("<")).tobytes()
    )


def test_what_is_stored_of_a_number_is_its_little_endian_bytes():
    stored = dtypes.to_stored(np.array([1, 0x0203], ">u2"))
    assert bytes(dtypes.byte_view(stored)) == b"\x01\x00\x03\x02"


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(12).reshape(3, 4)[:, ::2],
        np.arange(6)[::-1],
        np.broadcast_to(np.arange(3), (2, 3)),
    ],
)
def test_an_array_is_stored_in_c_order(array):
    stored = dtypes.to_stored(array)
    assert stored.flags.c_contiguous
    assert stored.shape == array.shape
    assert bytes(dtypes.byte_view(stored)) == array.tobytes("C")


def test_an_array_that_lies_right_already_is_not_copied():
    array = np.arange(6, dtype="<i4").reshape(2, 3)
    assert np.shares_memory(dtypes.to_stored(array), array)


def test_an_array_without_dimensions_stays_one():
    stored = dtypes.to_stored(np.array(3, "<i4"))
    assert stored.shape == ()
    assert bytes(dtypes.byte_view(stored)) == b"\x03\x00\x00\x00"


def test_the_byte_view_writes_into_the_array():
    array = np.zeros(2, "<u2")
    dtypes.byte_view(array)[2] = 7
    assert array.tolist() == [0, 7]


def test_the_byte_view_of_a_read_only_array_is_read_only():
    array = np.zeros(2)
    array.flags.writeable = False
    assert dtypes.byte_view(array).readonly


@pytest.mark.parametrize(
    "name", ["datetime64[zz]", "datetime64[99999999999999999999s]", "timedelta64[\u0663s]"]
)
def test_an_unknown_unit_of_time_is_an_unknown_dtype(name):
    with pytest.raises(KeyError):
        dtypes.numpy_dtype(name)
