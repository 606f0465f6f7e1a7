"""TensorFlow: variables, modules, random generators."""

from __future__ import annotations

import pytest
import tensorflow as tf

import milepost
from milepost import Checkpoint, errors
from milepost.testing import FrameworkTests


class Network(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = tf.Variable([[1.0, 2.0]])
        self.layers = [tf.Variable(1), {"deep": tf.Variable([3.0])}]
        self.pair = (tf.Variable(5.0),)
        self.inner = tf.Module()
        self.inner.v = tf.Variable(1.0, dtype=tf.bfloat16)
        self.generator = tf.random.Generator.from_seed(3)
        self.count = 3
        self.function = tf.function(lambda x: x)


class TestVariable(FrameworkTests):
    def make(self):
        return tf.Variable([1.0, 2.0])

    def change(self, value):
        value.assign_add([1.0, 1.0])
        return value


class TestTensor(FrameworkTests):
    def make(self):
        return tf.constant([1.0, 2.0])

    def change(self, value):
        return value + 1


class TestModule(FrameworkTests):
    def make(self):
        return Network()

    def change(self, value):
        for variable in value.trainable_variables:
            variable.assign(variable + 1)
        value.generator.normal([2])
        return value


class TestGenerator(FrameworkTests):
    def make(self):
        return tf.random.Generator.from_seed(1)

    def change(self, value):
        value.normal([3])
        return value


def test_names_read_like_the_module(tmp_path):
    Checkpoint(net=Network()).save(tmp_path)
    assert set(milepost.open(tmp_path).latest) == {
        "net/w",
        "net/layers/0",
        "net/layers/1/deep",
        "net/pair/0",
        "net/inner/v",
        "net/generator/state",
        "net/generator/algorithm",
    }


@pytest.mark.parametrize(
    "dtype",
    [tf.bool, tf.int8, tf.uint16, tf.int64, tf.float16, tf.bfloat16, tf.float64, tf.complex64],
)
def test_dtypes(tmp_path, dtype):
    variable = tf.Variable(tf.cast([1, 0, 1], dtype))
    Checkpoint(v=variable).save(tmp_path)
    variable.assign(tf.zeros_like(variable))
    Checkpoint(v=variable).restore(tmp_path)
    assert tf.cast(variable, tf.complex64).numpy().tolist() == [1, 0, 1]


def test_strings_are_refused(tmp_path):
    with pytest.raises(errors.UnsupportedObjectError, match="v has the dtype string"):
        Checkpoint(v=tf.Variable("text")).save(tmp_path)


def test_symbolic_tensors_are_refused(tmp_path):
    @tf.function(autograph=False)
    def step(x):
        Checkpoint(x=x).save(tmp_path)

    with pytest.raises(
        errors.UnsupportedObjectError, match="x is symbolic.*outside of tf.function"
    ):
        step(tf.ones(3))


def test_another_algorithm_is_refused(tmp_path):
    Checkpoint(g=tf.random.Generator.from_seed(1, alg="philox")).save(tmp_path)
    other = tf.random.Generator.from_seed(1, alg="threefry")
    with pytest.raises(errors.RestoreRefusedError, match="g/algorithm"):
        Checkpoint(g=other).restore(tmp_path)


def test_global_generators(tmp_path):
    checkpoint = Checkpoint(random=milepost.RandomState())
    tf.random.set_seed(3)
    tf.random.get_global_generator().normal([2])
    tf.random.normal([2])

    def draw():
        from_global = tf.random.get_global_generator().normal([2])
        return from_global.numpy().tolist() + tf.random.normal([2]).numpy().tolist()

    checkpoint.save(tmp_path)
    expected = draw()
    draw()
    checkpoint.restore(tmp_path)
    assert draw() == expected


def test_global_generators_go_on_in_a_new_process(tmp_path, run_program):
    program = """
        import sys
        import tensorflow as tf, milepost
        checkpoint = milepost.Checkpoint(random=milepost.RandomState())
        if sys.argv[1] == "save":
            tf.random.set_seed(3)
            tf.random.get_global_generator().normal([2])
            checkpoint.save("store")
        else:
            checkpoint.restore("store")
        print(tf.random.normal([2]).numpy(), tf.random.get_global_generator().normal([2]).numpy())
        """
    assert run_program(program, "save").stdout == run_program(program, "restore").stdout


def test_a_variable_of_an_open_shape(tmp_path):
    variable = tf.Variable([1.0, 2.0], shape=tf.TensorShape([None]))
    Checkpoint(v=variable).save(tmp_path)
    variable.assign([3.0, 4.0])
    Checkpoint(v=variable).restore(tmp_path)
    assert variable.numpy().tolist() == [1.0, 2.0]
    assert variable.shape.as_list() == [None]
