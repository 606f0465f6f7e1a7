"""Programs of JAX functions: StableHLO with the file's leaves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import milepost
from milepost import errors


@milepost.register(name="tests.mlp")
def mlp(params, x):
    return {"y": jnp.tanh(x @ params["w"]) + params["b"], "a": x.sum(axis=1)}


@pytest.fixture
def path(tmp_path):
    params = {"w": jnp.arange(12e3).reshape(4, 3000) / 12e3, "b": jnp.ones(3000)}
    model = jax.tree_util.Partial(mlp, params)
    milepost.save_model(model, tmp_path / "m", example=np.ones((2, 4), "f"), program=True)
    return tmp_path / "m"


def test_a_function_as_a_program(path):
    program = milepost.load_program(path)
    assert program.replay().difference <= 1e-6
    x = np.linspace(0, 1, 28, dtype="f").reshape(7, 4)
    found, expected = program(x), milepost.load_model(path)(x)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6)
    with milepost.open(path) as snapshot:
        data = snapshot.document.program.data
    assert len(data) < 8000  # the weights have 60,000 bytes
    assert __file__.encode() not in data


def test_jax_is_needed(path, run_program):
    finished = run_program(
        """
        import sys
        sys.modules["jax"] = None
        import milepost
        try:
            milepost.load_program(sys.argv[1])
        except milepost.errors.MissingPackageError as error:
            print(error)
        """,
        str(path),
    )
    assert "pip install jax" in finished.stdout
    assert issubclass(errors.MissingPackageError, ImportError)
