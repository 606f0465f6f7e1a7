"""Arrays in storage that are read when they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from milepost import dtypes
from milepost.dtypes import Array
from milepost.record import ArrayRecord

if TYPE_CHECKING:
    from milepost.snapshot import Snapshot


class LazyArray(NDArrayOperatorsMixin):
    """An array in storage. `array[:10]` reads those rows, `numpy.asarray(array)` all of it.

    Arithmetic and NumPy's functions read it whole; keep the result if it is used again.
    """

    def __init__(self, snapshot: Snapshot, name: str, record: ArrayRecord) -> None:
        self._snapshot = snapshot
        self._name = name
        self._record = record

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its dtype in NumPy; bfloat16 and its like are ml_dtypes'."""
        return dtypes.memory_dtype(self._record.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self._record.shape

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return len(self._record.shape)

    @property
    def size(self) -> int:
        """The number of its elements."""
        return int(np.prod(self._record.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Its size in bytes, once it is read."""
        return self._record.nbytes

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a zero-dimensional array has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<LazyArray {self._name}: {self._record.spec}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("an array in storage cannot be had without a copy")
        whole = self._snapshot.read(self._name)
        return np.asarray(whole, dtype=dtype)

    def __bool__(self) -> bool:
        return bool(np.asarray(self))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if any(isinstance(out, LazyArray) for out in kwargs.get("out", ())):
            raise TypeError("an array in storage is read-only: `x = x + 1` makes a new one")
        loaded = [_loaded(value) for value in inputs]
        return getattr(ufunc, method)(*loaded, **{k: _loaded(v) for k, v in kwargs.items()})

    def __getitem__(self, index: Any) -> Any:
        """NumPy indexing. Integers and slices read only the chunks that they touch."""
        parts = index if isinstance(index, tuple) else (index,)
        box, local = [], []
        if len(parts) > self.ndim or not all(map(_is_simple, parts)):
            return np.asarray(self)[index]
        for axis, size in enumerate(self.shape):
            part = parts[axis] if axis < len(parts) else slice(None)
            start, stop, inside = _axis_box(part, size, axis)
            box.append((start, stop))
            local.append(inside)
        return self._snapshot.read_box(self._name, self._record, tuple(box))[tuple(local)]


def _loaded(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, LazyArray) else value


def _is_simple(part: Any) -> bool:
    """Whether an index is a number or a slice; True is a mask to NumPy, and no number."""
    return isinstance(part, int | slice | np.integer) and not isinstance(part, bool)


def _axis_box(part: int | slice, size: int, axis: int) -> tuple[int, int, int | slice]:
    """The (start, stop) that an index needs of an axis, and the index inside of that."""
    if isinstance(part, slice):
        chosen = range(size)[part]
        if not chosen:
            return 0, 0, slice(0, 0)
        low, high = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1])
        return low, high + 1, slice(None, None, chosen.step)
    position = int(part) + size if part < 0 else int(part)
    if not 0 <= position < size:
        raise IndexError(f"index {part} is out of bounds for axis {axis} with size {size}")
    return position, position + 1, 0
