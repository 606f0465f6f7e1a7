"""Keras: every architecture of `keras.applications`, with random weights and small inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

import keras
from tests.coverage.family import Family

# The smallest that each allows; the others take any size from 32 up.
_SMALLEST = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}


def exist() -> list[str]:
    return sorted(
        name for name, value in vars(keras.applications).items() if inspect.isfunction(value)
    )


def case(name: str) -> Callable[[], tuple[Any, Any]]:
    def make() -> tuple[Any, Any]:
        keras.utils.clear_session()
        keras.utils.set_random_seed(3)
        shape = (_SMALLEST.get(name, 32),) * 2 + (3,)
        build = getattr(keras.applications, name)
        model = build(weights=None, include_top=False, pooling="avg", input_shape=shape)
        return model, np.random.default_rng(3).random((1, *shape), np.float32)

    return make


FAMILY = Family("Keras applications", exist, cases={name: case(name) for name in exist()})
