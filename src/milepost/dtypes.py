"""The names of dtypes: ours on disk, NumPy's in memory, safetensors' in a file's header.

Our names are NumPy's and ml_dtypes' own (`float32`, `bfloat16`, `int4`, `datetime64[ns]`).
On disk everything is little-endian. What safetensors has no code for lies in its files as
`U8`, and only the record beside it knows the true dtype.
"""

from __future__ import annotations

import re
import sys
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from milepost.errors import UnsupportedObjectError

Array: TypeAlias = npt.NDArray[Any]

# https://github.com/huggingface/safetensors/blob/main/safetensors/src/tensor.rs (enum Dtype)
SAFETENSORS_CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
# What newer files may also use. We do not write these: older readers would refuse the file.
CODE_NAMES = {code: name for name, code in SAFETENSORS_CODES.items()} | {
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}

_EXTENSION_NAMES = (
    "bfloat16",
    "float8_e3m4",
    "float8_e4m3",
    "float8_e4m3b11fnuz",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float6_e2m3fn",
    "float6_e3m2fn",
    "float4_e2m1fn",
    "int1",
    "int2",
    "int4",
    "uint1",
    "uint2",
    "uint4",
)
_DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in _EXTENSION_NAMES
    if hasattr(ml_dtypes, name)
}
for _scalar in (
    *(np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
    *(np.float16, np.float32, np.float64, np.complex64, np.complex128),
):
    _DTYPES[np.dtype(_scalar).name] = np.dtype(_scalar)
# The x87 80-bit format in 16 bytes; a machine whose long double is another format has no
# such dtype, and says so rather than misread it.
if np.dtype(np.longdouble).itemsize == 16 and np.finfo(np.longdouble).nmant == 63:
    _DTYPES["x87_float128"] = np.dtype(np.longdouble)
    _DTYPES["x87_complex256"] = np.dtype(np.clongdouble)

# What other formats have beside numbers: byte strings, as Python's `bytes` in an object array.
# Not one of `numpy_dtype`'s, because no bytes in a file may ever become a pointer to an object.
STRING = "string"

# The dtypes that `memoryview` knows how to look at as bytes.
_BUFFERED = frozenset(map(np.dtype, "?bBhHiIlLqQefd"))

_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_TIME = re.compile(r"(datetime64|timedelta64)(\[[0-9]{0,9}(Y|M|W|D|h|m|s|[munpfa]s)\])?")


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Our name of a NumPy dtype, whatever its byte order.

    Raises:
        UnsupportedObjectError: the dtype is not numeric (objects, strings, records).
    """
    name = _NAMES.get(dtype)  # most often: it is of this machine's byte order
    # NumPy's StringDType has no byte order, and raises when it is asked for another.
    if name is None and dtype.kind != "T":
        name = _NAMES.get(dtype.newbyteorder("="))
    if name is not None:
        return name
    if dtype.kind in "mM":
        return dtype.name
    raise UnsupportedObjectError(
        f"dtype {dtype} cannot be saved: milepost saves numbers, booleans and times; "
        "turn strings and objects into plain Python values first"
    )


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype (native byte order) that has our name `name`.

    Raises:
        KeyError: there is none on this machine.
    """
    if name in _DTYPES:
        return _DTYPES[name]
    if _TIME.fullmatch(name):
        return np.dtype(name)
    raise KeyError(name)


def memory_dtype(name: str) -> np.dtype[Any]:
    """As `numpy_dtype`, with strings: what a leaf of the dtype is in memory, once it is read."""
    return np.dtype(object) if name == STRING else numpy_dtype(name)


def container_type(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """The safetensors code and shape under which an array of dtype `name` lies in a file."""
    if name in SAFETENSORS_CODES:
        return SAFETENSORS_CODES[name], shape
    itemsize = numpy_dtype(name).itemsize
    return "U8", shape if itemsize == 1 else (*shape, itemsize)


def to_stored(array: Array) -> Array:
    """`array` as it lies on disk: C-contiguous and little-endian. Copies only if it must."""
    if sys.byteorder == "big" or not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray makes 0-d 1-d


def byte_view(array: Array) -> memoryview:
    """The raw bytes of a C-contiguous array, without a copy."""
    data: Any = array
    if array.dtype in _BUFFERED and array.size:
        return memoryview(data).cast("B")  # in a quarter of the time, for very many arrays
    return memoryview(data.reshape(-1).view(np.uint8))


def stored_view(array: Array) -> memoryview:
    """The bytes of an array as it lies on disk: little-endian, in C order. Copies if it must."""
    if sys.byteorder == "little" and array.dtype.isnative and array.flags.c_contiguous:
        return byte_view(array)
    return byte_view(to_stored(array))


def number_bytes(name: str) -> int:
    """The bytes of one number of a dtype, of which a complex one has two; 1, 2, 4 or 8.

    Of what has no such size, the bytes are taken one by one.
    """
    dtype = numpy_dtype(name)
    size = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    return size if size in (1, 2, 4, 8) else 1
