"""Casting the floating arrays of a file to another dtype, and counting what does not survive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from milepost import dtypes
from milepost.conversion.content import Content, Tensor
from milepost.dtypes import Array
from milepost.errors import UsageError
from milepost.record import Box

# Those that have a NaN, and every reader knows.
TARGETS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
_FLOATING = ("float", "bfloat", "x87_float128")


@dataclass(slots=True)
class Losses:
    """What a cast lost, by leaf, once it is written.

    Attributes:
        overflowed: leaf -> how many finite numbers became infinite, or NaN where there is no
            infinity.
        vanished: leaf -> how many numbers became zero.
    """

    overflowed: dict[str, int] = field(default_factory=dict)
    vanished: dict[str, int] = field(default_factory=dict)


def check(dtype: str) -> str:
    """`dtype`, if floating arrays can be cast to it.

    Raises:
        UsageError: they cannot.
    """
    if dtype not in TARGETS:
        raise UsageError(f"dtype must be one of {', '.join(TARGETS)}: found {dtype!r}")
    return dtype


def cast(content: Content, dtype: str, losses: Losses) -> tuple[Content, int]:
    """A content with its floating arrays cast, and how many these are."""
    chosen = {
        name: _cast(tensor, dtype, losses)
        for name, tensor in content.tensors.items()
        if tensor.dtype.startswith(_FLOATING) and tensor.dtype != dtype
    }
    return replace(content, tensors={**content.tensors, **chosen}), len(chosen)


def _cast(tensor: Tensor, dtype: str, losses: Losses) -> Tensor:
    target = dtypes.numpy_dtype(dtype)

    def parts() -> Iterator[tuple[Box, Array]]:
        overflowed = vanished = 0
        for box, part in tensor.parts():
            result = _converted(part, target)
            overflowed += _count(part, result, np.isfinite)
            vanished += _count(part, result, _is_not_zero)
            yield box, result
        for counts, count in ((losses.overflowed, overflowed), (losses.vanished, vanished)):
            if count:
                counts[tensor.name] = count

    place = (dtype, tensor.place) if tensor.place is not None else None
    return replace(tensor, dtype=dtype, parts=parts, place=place)


def _converted(part: Array, target: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return part.astype(target)


def _count(before: Array, after: Array, good: Callable[[Array], Array]) -> int:
    """How many elements were good before, and are not afterwards."""
    return int(np.count_nonzero(good(before) & ~good(after)))


def _is_not_zero(array: Array) -> Array:
    found: Array = array != 0
    return found
