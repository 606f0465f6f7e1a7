"""A checkpoint in a store of milepost's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from milepost import dtypes
from milepost.conversion.content import Content, Tensor
from milepost.conversion.writers import Options, Written
from milepost.dtypes import Array
from milepost.state import Leaf, Plain, State
from milepost.storage.local import LocalStorage
from milepost.store import Store
from milepost.store import Writer as StoreWriter

NAME = "a store"
KEEPS_METADATA = True


def holds(dtype: str) -> bool:
    return dtype != dtypes.STRING


def keeps(name: str, value: Plain) -> bool:
    return True


def write(path: str, content: Content, options: Options) -> Written:
    writer = StoreWriter(Store.open_or_create(LocalStorage(path)))
    step = writer.next_step() if options.step is None else options.step
    save(writer, content, step, overwrite=options.overwrite)
    return Written((path,), (f"step {step}",))


def save(
    writer: StoreWriter,
    content: Content,
    step: int,
    *,
    overwrite: bool = False,
) -> int:
    """Commit a content as the checkpoint of a step; returns how many of its bytes were new."""
    arrays = {name: LazyTensor(tensor) for name, tensor in content.tensors.items()}
    leaves: dict[str, Leaf] = {**arrays, **content.values}
    state = State(leaves, content.description.objects)
    metadata = dict(content.description.metadata)
    return writer.save(state, step, content.metrics, metadata, overwrite=overwrite).written


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor as a state's leaf, which is in memory part by part (see `state.InParts`)."""

    tensor: Tensor

    @property
    def dtype(self) -> np.dtype[Any]:
        return dtypes.numpy_dtype(self.tensor.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self.tensor.whole(), dtype=dtype)

    def stored_parts(self) -> Iterator[memoryview]:
        return self.tensor.data()
