"""Inputs against a signature: what has its dtype and shape, or may safely be given them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from milepost import dtypes
from milepost.dtypes import Array
from milepost.errors import UsageError

# Larger whole numbers may have lost their last digits when they were read.
_EXACT = 2**53


def fitted(value: Any, entry: Mapping[str, Any], *, text: bool = False) -> Array:
    """An array as an input of the signature.

    Arguments:
        entry: the `name`, `dtype` and `shape` of the input.
        text: whether it was read from a text, which has no dtypes of its own: then float64
            becomes float32, and whole numbers become integers.

    Raises:
        UsageError: it has another shape, or would lose something.
    """
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    expected = f"{entry['dtype']}{_shape(entry['shape'])}"
    found = f"{array.dtype}{_shape(array.shape)}"
    if not _fits(array.shape, entry["shape"]):
        raise UsageError(f"input {entry['name']!r}: expected {expected}, found {found}")
    dtype = dtypes.numpy_dtype(entry["dtype"])
    if array.dtype == dtype:
        return array
    if not _is_safe(array, dtype, text):
        raise UsageError(
            f"input {entry['name']!r}: expected {expected}, found {found}, which would lose "
            f"something as {entry['dtype']}: convert it yourself"
        )
    return array.astype(dtype)


def _fits(found: tuple[int, ...], expected: list[int | None]) -> bool:
    return len(found) == len(expected) and all(
        e is None or f == e for f, e in zip(found, expected, strict=True)
    )


def _is_safe(array: Array, dtype: np.dtype[Any], text: bool) -> bool:
    floats = dtype.kind == "f" or dtype.name == "bfloat16"
    if floats and array.dtype.kind in "biu":
        with np.errstate(over="ignore"):
            return bool((array.astype(dtype).astype(array.dtype) == array).all())
    if np.can_cast(array.dtype, dtype, "safe"):
        return True
    if array.dtype.kind in "iu" and dtype.kind in "iu" and array.size:
        bounds = np.iinfo(dtype)
        return bool(bounds.min <= int(array.min()) and int(array.max()) <= bounds.max)
    if not text:
        return not array.size
    with np.errstate(invalid="ignore", over="ignore"):
        if floats:
            return bool((np.isfinite(array.astype(dtype)) == np.isfinite(array)).all())
        return bool((array.astype(dtype) == array).all() and (abs(array) < _EXACT).all())


def _shape(shape: Any) -> str:
    return "[" + ", ".join("any" if n is None else str(n) for n in shape) + "]"
