"""Real handwritten digits, from scikit-learn: 8 by 8 pixels each."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import datasets

Array = npt.NDArray[Any]


def load_digits() -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Images and labels, (1437, 64) and (1437,), to train on; (360, 64) and (360,) held out."""
    images, labels = datasets.load_digits(return_X_y=True)
    images = (images / 16).astype("float32")
    order = np.random.default_rng(0).permutation(len(images))
    training, held_out = order[:1437], order[1437:]
    return (images[training], labels[training]), (images[held_out], labels[held_out])


def held_out() -> tuple[Array, Array]:
    """The images and labels that nobody trains on."""
    return load_digits()[1]
