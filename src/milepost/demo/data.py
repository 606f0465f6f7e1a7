"""Batches for `fit`, in an order that is a function of the epoch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

import keras

Array = npt.NDArray[Any]


class Digits(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of digits, shuffled anew for each epoch, the same whoever asks."""

    def __init__(self, images: Array, labels: Array, batch_size: int) -> None:
        super().__init__()
        self._images, self._labels = images, labels
        self._batch_size = batch_size
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self._order = np.random.default_rng(epoch).permutation(len(self._images))

    def __len__(self) -> int:
        return math.ceil(len(self._images) / self._batch_size)

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        chosen = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        return self._images[chosen], self._labels[chosen]
