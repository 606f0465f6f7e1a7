"""What a PyTorch pickle is made of, beside Python's own: tensors, by where their numbers lie."""

from __future__ import annotations

from dataclasses import dataclass

from milepost import dtypes
from milepost.dtypes import Array

_FLOAT8 = ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu")
_PACKED = ("quint4x2", "quint2x4", "float4_e2m1fn_x2", "bits8", "bits1x8", "bits2x4", "bits4x2")
# PyTorch's dtypes by NumPy's. What NumPy does not have comes as the bytes that it is made of.
DTYPES: dict[str, str] = {
    **{name: name for name in ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32")},
    **{name: name for name in ("uint64", "int64", "float16", "bfloat16", "float32", "float64")},
    **{name: name for name in ("complex64", "complex128")},
    **{f"float8_{name}": f"float8_{name}" for name in _FLOAT8},
    **{f"{sign}int{bits}": f"{sign}int8" for sign in ("", "u") for bits in range(1, 8)},
    **dict.fromkeys(_PACKED, "uint8"),
    "bits16": "uint16",
    "qint8": "int8",
    "quint8": "uint8",
    "qint32": "int32",
    "complex32": "float16",  # with an axis of two behind the others
}
COMPLEX32 = "complex32"


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of numbers outside of the pickle, or a part of one.

    Attributes:
        numel: of the whole storage, in elements of `dtype`.
        start: where a view of it begins, in elements.
    """

    key: str
    dtype: str
    numel: int
    start: int = 0

    @property
    def nbytes(self) -> int:
        return self.numel * itemsize(self.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """How a tensor lies in its storage; `offset` and `stride` are in elements."""

    storage: Storage
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    kind: str = ""
    conj: bool = False
    neg: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """An array that is in the pickle itself."""

    array: Array


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """A tensor that has no numbers in the file, or in none of the forms known here."""

    why: str


def itemsize(dtype: str) -> int:
    """The size of an element of a dtype of PyTorch's, in bytes."""
    return dtypes.numpy_dtype(DTYPES[dtype]).itemsize * (2 if dtype == COMPLEX32 else 1)
