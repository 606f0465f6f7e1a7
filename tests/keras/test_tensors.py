"""Values without a copy and zeros without memory: the same numbers, and no array changes."""

from __future__ import annotations

import gc
import weakref

import ml_dtypes
import numpy as np
import pytest

import keras
from milepost.buffers import aligned
from milepost.frameworks.keras import tensors

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="other backends copy"
)
SIZE = 100_000


def values(dtype: str = "float32", size: int = SIZE) -> np.ndarray:
    array = aligned(size * np.dtype(dtype).itemsize).view(dtype)
    array[:] = np.arange(size) % 100
    return array


def address(variable: keras.Variable) -> int:
    return np.asarray(memoryview(variable.value.value())).ctypes.data


def test_a_variable_takes_the_memory_of_an_array():
    array = values()
    variable = keras.Variable(np.ones(SIZE, np.float32))
    variable.assign(tensors.without_copy(array))
    assert address(variable) == array.ctypes.data
    np.testing.assert_array_equal(variable, array)


@pytest.mark.parametrize("compiled", [False, True])
def test_training_leaves_the_array_alone(compiled: bool):
    array = values()
    before = array.copy()
    one, two = (keras.Variable(np.ones(SIZE, np.float32)) for _ in range(2))
    for variable in (one, two):  # which may share one array
        variable.assign(tensors.without_copy(array))
    optimizer = keras.optimizers.Adam(0.5)
    optimizer.build([one])
    import tensorflow

    @tensorflow.function(jit_compile=compiled)
    def step() -> None:
        optimizer.apply([tensorflow.ones(SIZE)], [one])
        one.assign_add(tensorflow.ones(SIZE))

    step()
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(two, before)
    np.testing.assert_allclose(one, before + 0.5, atol=1e-4)


def test_the_memory_lives_as_long_as_the_variable_needs_it():
    array = values()
    alive = weakref.ref(array.base)
    variable = keras.Variable(np.ones(SIZE, np.float32))
    variable.assign(tensors.without_copy(array))
    del array
    gc.collect()
    assert alive() is not None
    assert float(variable[7]) == 7
    variable.assign(np.zeros(SIZE, np.float32))
    gc.collect()
    assert alive() is None


def _read_only() -> np.ndarray:
    array = values()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "array",
    [
        values(size=SIZE + 1)[1:],  # TensorFlow would abort the process
        values()[::2],
        values().astype(ml_dtypes.bfloat16),
        _read_only(),
        values(size=4),
    ],
    ids=["unaligned", "with gaps", "bfloat16", "read-only", "small"],
)
def test_what_cannot_or_need_not_be_shared_stays_an_array(array: np.ndarray):
    assert tensors.without_copy(array) is array


@pytest.mark.parametrize("shape", [(SIZE,), (500, 200), (3,), ()])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "bool"])
def test_untouched_zeros_are_zeros(shape: tuple[int, ...], dtype: str):
    with tensors.untouched_zeros():
        variable = keras.Variable("zeros", shape=shape, dtype=dtype, trainable=False)
    assert variable.dtype == dtype
    assert tuple(variable.shape) == shape
    assert not np.asarray(keras.ops.cast(variable, "float32")).any()


def test_zeros_take_no_memory_until_they_change():
    resource = pytest.importorskip("resource")

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

    before = peak()
    with tensors.untouched_zeros():
        variables = [keras.Variable("zeros", shape=(1 << 24,)) for _ in range(16)]
    assert peak() - before < 200_000_000  # of 1 GiB
    variables[0].assign_add(np.ones(1 << 24, np.float32))
    assert float(variables[0][5]) == 1
    assert float(variables[1][5]) == 0


def test_other_initial_values_are_as_they_were():
    with tensors.untouched_zeros():
        ones = keras.Variable("ones", shape=(SIZE,))
        given = keras.Variable(values())
        random = keras.Variable(keras.initializers.RandomNormal(seed=1), shape=(SIZE,))
    np.testing.assert_array_equal(ones, np.ones(SIZE))
    np.testing.assert_array_equal(given, values())
    plain = keras.Variable(keras.initializers.RandomNormal(seed=1), shape=(SIZE,))
    np.testing.assert_array_equal(random, plain)
