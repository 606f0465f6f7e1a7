"""Writes a store and model files in the current format: once for every version of it.

    python -m tests.old.make tests/old/format-1

What an earlier version wrote is never written again: it is what new code must go on reading.
"""

from __future__ import annotations

import collections
import os
import sys
from typing import Any

import ml_dtypes
import numpy as np

import milepost

Point = collections.namedtuple("Point", "x y")


def tree(step: int) -> dict[Any, Any]:
    """What the store's checkpoint of this step holds."""
    return {
        "kernel": np.arange(12, dtype=np.float32).reshape(3, 4) * step,
        "frozen": np.arange(5, dtype=ml_dtypes.bfloat16),
        "int4": np.arange(-8, 8).astype(ml_dtypes.int4),
        "complex": np.array([1 + 2j, 3 - 4j]),
        "time": np.array(["2026-11-23", "NaT"], "datetime64[s]"),
        "scalar": np.array(7, np.int16),
        "empty": np.zeros((0, 3)),
        "plain": [None, True, step, -(2**80), 0.1, float("-inf"), "é", b"\x00\xff"],
        3: {("a", 1): ((), {}), "point": Point(1, 2.5)},
    }


def weights(step: int) -> np.ndarray:
    """What the compacted store's checkpoint of this step holds: integers, the same everywhere."""
    start = np.arange(96 * 64, dtype=np.uint32) * np.uint32(2654435761) >> 8
    return (start + np.arange(96 * 64, dtype=np.uint32) % (step + 7)).reshape(96, 64)


def values(shape: tuple[int, ...]) -> np.ndarray:
    """What every parameter of a model holds, by its shape."""
    count = int(np.prod(shape))
    return (np.arange(count, dtype=np.float32).reshape(shape) + 1) / count


def torch_model() -> Any:
    import torch

    model = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(values(tuple(parameter.shape))))
    return model.eval()


def keras_model() -> Any:
    import keras

    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    outputs = keras.layers.Dense(2, activation="softmax", name="out")(hidden)
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    model.set_weights([values(weight.shape) for weight in model.get_weights()])
    return model


def make(folder: str) -> None:
    os.makedirs(folder)
    for step in (1, 2):
        checkpoint = milepost.Checkpoint(tree=tree(step))
        checkpoint.save(f"{folder}/store", step, metrics={"loss": 1 / step}, metadata={"lr": 0.1})
    for step in range(1, 6):
        milepost.Checkpoint(weights=weights(step)).save(f"{folder}/compacted", step)
    milepost.compact(f"{folder}/compacted")
    milepost.save_model(torch_model(), f"{folder}/torch.safetensors")
    milepost.save_model(keras_model(), f"{folder}/keras.safetensors")


if __name__ == "__main__":
    make(sys.argv[1])
