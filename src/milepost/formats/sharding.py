"""How arrays are shared out over files, of a size that the user says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from milepost.errors import UsageError
from milepost.limits import shown

_LONGEST = 30
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{unit}I": 1 << 10 * power for power, unit in enumerate("KMGT", 1)}


class Sized(Protocol):
    """What has a size in bytes."""

    @property
    def nbytes(self) -> int: ...


_Sized = TypeVar("_Sized", bound=Sized)


def size_in_bytes(shard_size: int | str) -> int:
    """A size in bytes, of a number or a text such as `"2GB"` or `"500 MiB"`.

    Raises:
        UsageError: it is none, or less than one byte.
    """
    text = shard_size if isinstance(shard_size, str) else str(shard_size)
    text = text if len(text) < _LONGEST else ""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?I?)B?", text.strip().upper())
    if isinstance(shard_size, bool) or found is None or found[2] not in _UNITS:
        raise UsageError(f"shard_size must be a size such as '2GB': found {shown(shard_size)}")
    size = int(float(found[1]) * _UNITS[found[2]])
    if size < 1:
        raise UsageError(f"shard_size must be one byte at least: found {shown(shard_size)}")
    return size


def grouped(arrays: Iterable[_Sized], shard_size: int) -> Iterator[list[_Sized]]:
    """Arrays in their order, as many in each group as fit; one group at least.

    None is cut: one that is larger has a group of its own.
    """
    group: list[_Sized] = []
    size = 0
    for array in arrays:
        if group and size + array.nbytes > shard_size:
            yield group
            group, size = [], 0
        group.append(array)
        size += array.nbytes
    yield group
