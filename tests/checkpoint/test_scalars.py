"""Numbers that are a plain value on one side, and an array without axes on the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from milepost import Checkpoint, errors


@dataclass
class Held:
    value: object


@pytest.mark.parametrize(
    ("live", "saved"),
    [
        (0, np.int64(5)),
        (0, jnp.int32(5)),
        (0.0, np.float64(0.1)),
        (0.0, np.float32(0.5)),
        (0.0, np.int8(3)),
        (False, np.bool_(True)),
        (np.array(0), 7),
        (np.array(0.0), 0.1),
        (np.array(0, np.int8), 127),
        (np.array(0.0, np.float32), float("nan")),
        (jnp.int32(0), 5),
        (jnp.float32(0), 0.5),
        (jnp.bool_(0), True),
    ],
)
def test_nothing_is_lost(tmp_path: Path, live, saved):
    Checkpoint(held=Held(saved)).save(tmp_path)
    held = Held(live)
    assert Checkpoint(held=held).restore(tmp_path).is_exact
    assert type(held.value) is type(live)
    assert getattr(held.value, "dtype", None) == getattr(live, "dtype", None)
    np.testing.assert_array_equal(np.asarray(held.value), np.asarray(saved))


@pytest.mark.parametrize(
    ("live", "saved"),
    [
        (np.array(0), 2.7),
        (np.array(0.0), None),
        (np.array(0), "abc"),
        (jnp.int32(0), 2.7),
        (jnp.int32(0), 2**40),
        (jnp.int32(0), 2**80),
        (jnp.int32(0), "x"),
        (np.array(0, np.int8), 128),
        (np.array(False), 1),
        (0, np.float64(2.5)),
        (0, np.array([1, 2])),
        ("x", np.int64(1)),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_changes(tmp_path: Path, live, saved):
    # A container's plain values may become anything; its arrays may not.
    makes = [Held] if isinstance(live, int | str) else [Held, lambda value: {"value": value}]
    for number, make in enumerate(makes):
        Checkpoint(w=np.ones(2), held=make(saved)).save(tmp_path, number)
        w, held = np.zeros(2), make(live)
        with pytest.raises(errors.RestoreRefusedError, match="held/value"):
            Checkpoint(w=w, held=held).restore(tmp_path, number)
        assert w.tolist() == [0, 0]
        assert held == make(live)


def test_a_float_that_is_rounded_is_cast(tmp_path: Path):
    Checkpoint(x=0.1).save(tmp_path)
    checkpoint = Checkpoint(x=np.array(0, np.float32))
    assert checkpoint.plan(tmp_path).count("cast") == 1
    with pytest.raises(errors.RestoreRefusedError):
        checkpoint.restore(tmp_path)
    checkpoint.restore(tmp_path, strict=False)
    assert checkpoint.x == np.float32(0.1)


@pytest.mark.parametrize("live", [None, 3, "x", np.float64(1)])
@pytest.mark.parametrize("saved", [None, 2.5, "best", np.float64(0.5), np.int64(2)])
def test_a_plain_value_of_a_container_becomes_what_was_saved(tmp_path: Path, live, saved):
    Checkpoint(log={"best": saved}).save(tmp_path)
    log = {"best": live}
    Checkpoint(log=log).restore(tmp_path)
    assert log == {"best": saved}
    assert type(log["best"]) is type(saved)


def test_the_step_of_a_train_state_that_was_jitted_meanwhile(tmp_path: Path):
    @dataclass
    class TrainState:
        step: object
        w: np.ndarray

    Checkpoint(state=TrainState(jnp.int32(7), np.ones(2)), step=np.int64(7)).save(tmp_path)
    fresh = TrainState(0, np.zeros(2))
    checkpoint = Checkpoint(state=fresh, step=0)
    checkpoint.restore(tmp_path)
    assert (fresh.step, checkpoint.step) == (7, 7)
    assert type(checkpoint.step) is int
