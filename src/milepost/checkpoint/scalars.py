"""Numbers that are a plain value on one side of a restore, and an array on the other.

A step counter is an `int` in a fresh program and an `int32[]` after the first jitted update;
a metric is a `float` here and a `numpy.float64` there. They are the same if nothing is lost.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import numpy as np

from milepost.dtypes import Array
from milepost.state import Plain, is_plain

_NUMBER = re.compile("bool|u?int|b?float|complex")
_KINDS = {"bool": "b", "int": "i", "uint": "i", "float": "f", "bfloat": "f", "complex": "c"}
# Which kind of number may become which.
_BECOMES = {"b": "b", "i": "ifc", "f": "fc", "c": "c"}


def fit(live: Any, saved: Plain | Array, *, grows: bool) -> Literal["exact", "cast"] | None:
    """Whether a saved scalar is the live one's value, or would be if cast, or is no such thing.

    `grows` is whether they are in a container whose plain values may be anything.
    """
    if grows and is_replaced(live):
        return "exact"
    here, there = _kind(live), _kind(saved)
    if here is None or there is None or here not in _BECOMES[there]:
        return None
    try:
        value = converted(live, saved)
    except OverflowError:  # an integer beyond 64 bits
        return None
    if np.array_equal(np.asarray(value), np.asarray(saved), equal_nan=there in "fc"):
        return "exact"
    return "cast" if there == "f" else None


def is_replaced(live: Any) -> bool:
    """Whether a growing container just takes what was saved in the place of this value."""
    return is_plain(live) or isinstance(live, np.generic)


def converted(live: Any, saved: Plain | Array) -> Plain | Array:
    """A saved number as the kind of the live one."""
    if is_plain(live):
        kind: Any = type(live)
        return kind(np.asarray(saved)[()])  # type: ignore[no-any-return]
    array = np.asarray(saved).astype(live.dtype)
    return array[()] if isinstance(live, np.generic) else array


def _kind(value: Any) -> str | None:
    """`"b"`, `"i"`, `"f"` or `"c"` for numbers; ml_dtypes' have a kind of their own."""
    if is_plain(value):
        return {bool: "b", int: "i", float: "f"}.get(type(value))
    found = _NUMBER.match(np.dtype(value.dtype).name)
    return _KINDS[found[0]] if found else None
