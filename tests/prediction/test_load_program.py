"""`load_program`: its inputs, its errors, and what it does without."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import milepost
from milepost import errors
from tests.prediction.conftest import LABELS

ROOT = Path(__file__).parents[2]


def test_a_program_by_position_and_by_name(digits, x, expected):
    program = milepost.load_program(digits)
    np.testing.assert_allclose(program(x), expected, atol=1e-6)
    np.testing.assert_allclose(program(input=x[:1]), expected[:1], atol=1e-6)
    assert program.labels == LABELS
    assert program.inputs == [{"name": "input", "dtype": "float32", "shape": [None, 1, 8, 8]}]
    assert str(digits) in repr(program)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: ((x[:, 0],), {}),
            r"expected float32\[any, 1, 8, 8\], found float32\[50, 8, 8\]",
        ),
        (lambda x: ((x.astype("f8"),), {}), "would lose something as float32"),
        (lambda x: ((x, x), {}), r"expected the inputs \['input'\]"),
        (lambda x: ((x,), {"input": x}), r"expected the inputs \['input'\]"),
        (lambda x: ((), {"other": x}), r"expected the inputs \['input'\], found \['other'\]"),
    ],
)
def test_other_inputs_are_refused(digits, x, change, message):
    arrays, named = change(x)
    with pytest.raises(errors.UsageError, match=message):
        milepost.load_program(digits)(*arrays, **named)


def test_whole_numbers_become_floats(digits):
    program = milepost.load_program(digits)
    whole = np.arange(64).reshape(1, 1, 8, 8)
    np.testing.assert_array_equal(program(whole), program(whole.astype("f")))


@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_batches_of_any_size(digits, x, expected, size):
    done = []
    [found] = milepost.load_program(digits).predict([x], size, done.append)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert done == [*range(size, 50, size), 50]


class OverTime(nn.Module):
    """Its first axis is that of time, and no row is computed without those before."""

    def forward(self, x):
        return x.cumsum(0)


class Scaled(nn.Module):
    def forward(self, x, by):
        return x * by


def test_rows_that_depend_on_each_other(tmp_path):
    milepost.save_model(OverTime(), tmp_path / "m", example=torch.ones(3, 2), program=True)
    program = milepost.load_program(tmp_path / "m")
    x = np.ones((8, 2), "f")
    assert (program.predict([x], 8)[0] == x.cumsum(0)).all()
    for size in (1, 2, 7):
        with pytest.raises(errors.UsageError, match="depends on the other rows.*--batch-size 8"):
            program.predict([x], size)


def test_inputs_that_have_no_rows(tmp_path):
    example = (torch.ones(1, 2), torch.tensor(3.0))
    milepost.save_model(Scaled(), tmp_path / "m", example=example, program=True)
    program = milepost.load_program(tmp_path / "m")
    [found] = program.predict([np.ones((5, 2), "f"), np.array(2, "f")], 2)
    assert (found == np.full((5, 2), 2)).all()


BLOCKER = """
    import sys
    BLOCKED = {"tensorflow", "keras", "torch", "jax", "jaxlib", "flax", "onnx", "onnxscript"}
    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in BLOCKED:
                raise ImportError(f"{name} is not installed here")
    sys.meta_path.insert(0, Blocker())
"""


def test_where_no_framework_can_be_imported(digits, x, expected, tmp_path, run_program):
    np.save(tmp_path / "x.npy", x)
    run_program(
        BLOCKER
        + """
    import numpy, milepost
    program = milepost.load_program(sys.argv[1])
    numpy.save("y.npy", program(numpy.load("x.npy")))
    print(program.replay())
    sys.argv[1:] = ["predict", sys.argv[1], "x.npy", "-o", "z.npy"]
    from milepost.cli import main
    main()
        """,
        str(digits),
    )
    for name in ("y.npy", "z.npy"):
        np.testing.assert_allclose(np.load(tmp_path / name), expected, atol=1e-6)


def test_the_articles_model(tmp_path, run_program):
    """Trained with Keras in one process, predicted with in another that has no framework."""
    run_program(
        """
        import keras, numpy, milepost
        from sklearn.datasets import load_digits
        images, digits = load_digits(return_X_y=True)
        images = (images / 16).astype("float32")
        model = keras.Sequential([
            keras.Input((64,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(10)
        ])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss)
        model.fit(images, digits, epochs=2, verbose=0)
        labels = [str(digit) for digit in range(10)]
        milepost.save_model(model, "digits", example=images[:2], program=True, labels=labels)
        numpy.save("images.npy", images)
        numpy.save("expected.npy", model.predict(images, verbose=0))
        """,
        KERAS_BACKEND="tensorflow",
    )
    run_program(
        BLOCKER
        + """
    sys.argv[1:] = ["predict", "digits", "images.npy", "-o", "found.npz"]
    from milepost.cli import main
    main()
        """
    )
    expected, found = np.load(tmp_path / "expected.npy"), np.load(tmp_path / "found.npz")
    np.testing.assert_allclose(found["output"], expected, atol=1e-4)
    assert found["label"].tolist() == [str(place) for place in expected.argmax(1)]


@pytest.mark.slow
def test_in_an_environment_with_nothing_else(digits, x, expected, tmp_path):
    def run(*command):
        subprocess.run([*map(str, command)], check=True, cwd=tmp_path)

    run(sys.executable, "-m", "venv", "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", f"{ROOT}[predict]")
    np.save(tmp_path / "x.npy", x)
    run(python, "-m", "milepost", "predict", digits, "x.npy", "-o", "y.npy")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-6)
    for package in ("torch", "tensorflow", "keras", "jax", "onnx"):
        run(python, "-c", f"import importlib.util as u; assert not u.find_spec({package!r})")


def test_damaged_weights_are_noticed(digits, tmp_path):
    shutil.copy(digits, tmp_path / "copy")
    data = bytearray((tmp_path / "copy").read_bytes())
    data[-1] ^= 1
    (tmp_path / "copy").write_bytes(data)
    with pytest.raises(errors.DamagedError, match=r"leaf '.*(weight|bias)'"):
        milepost.load_program(tmp_path / "copy")


class Mine(nn.Module):
    def forward(self, x):
        return 2 * x


def test_a_file_whose_class_is_unknown_offers_its_program(tmp_path):
    milepost.save_model(Mine(), tmp_path / "mine", example=torch.ones(2, 3), program=True)
    with pytest.raises(errors.UnknownClassError, match="The file needs: Mine\n.*load_program"):
        milepost.load_model(tmp_path / "mine")
    assert (milepost.load_program(tmp_path / "mine")(np.ones((1, 3), "f")) == 2).all()


@pytest.mark.parametrize(
    ("package", "verb", "said"),
    [
        ("onnxruntime", "load_program", ['pip install "milepost[predict]"']),
        ("torch", "load_model", ["pip install torch", "milepost.load_program("]),
    ],
)
def test_a_missing_package_names_the_ways_out(digits, run_program, package, verb, said):
    finished = run_program(
        """
        import sys
        package, verb, path = sys.argv[1:]
        sys.modules[package] = None
        import milepost
        try:
            getattr(milepost, verb)(path)
        except milepost.errors.MissingPackageError as error:
            print(error)
        """,
        package,
        verb,
        str(digits),
    )
    for words in said:
        assert words in finished.stdout
