"""`RandomState`: every global generator in use, as one object."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from milepost import Checkpoint, RandomState


def draw() -> tuple:
    return (random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn())


def test_random_numbers_go_on_from_where_they_were(tmp_path: Path):
    random.gauss(0, 1)  # which keeps a second number for the next call
    np.random.randn()
    checkpoint = Checkpoint(random=RandomState())
    checkpoint.save(tmp_path)
    expected = [draw() for _ in range(5)]
    checkpoint.restore(tmp_path)
    assert [draw() for _ in range(5)] == expected


def test_generators_of_ones_own(tmp_path: Path):
    ours = {
        "python": random.Random(1),
        "pcg": np.random.default_rng(2),
        "legacy": np.random.RandomState(3),
        "philox": np.random.Generator(np.random.Philox(4)),
    }

    def numbers():
        return [ours["python"].random(), *(ours[k].random() for k in ("pcg", "legacy", "philox"))]

    numbers()
    Checkpoint(**ours).save(tmp_path)
    expected = numbers()
    Checkpoint(**ours).restore(tmp_path)
    assert numbers() == expected


def test_a_generator_of_another_kind_is_refused(tmp_path: Path):
    import pytest

    from milepost import errors

    Checkpoint(g=np.random.default_rng(1)).save(tmp_path)
    other = np.random.Generator(np.random.Philox(1))
    before = other.bit_generator.state["state"]["counter"].tolist()
    with pytest.raises(errors.RestoreRefusedError, match="expected 'Philox', found 'PCG64'"):
        Checkpoint(g=other).restore(tmp_path)
    assert other.bit_generator.state["state"]["counter"].tolist() == before


def test_no_framework_is_imported_for_it(run_program):
    run_program(
        """
        import sys
        import milepost
        checkpoint = milepost.Checkpoint(random=milepost.RandomState(), n=1)
        checkpoint.save("store")
        checkpoint.restore("store")
        frameworks = {"torch", "tensorflow", "keras", "jax", "flax", "equinox"}
        assert not frameworks & sys.modules.keys(), frameworks & sys.modules.keys()
        """
    )


def test_a_generator_of_a_framework_that_is_not_in_use_is_left_out(tmp_path: Path, run_program):
    run_program(
        """
        import torch, milepost
        milepost.Checkpoint(random=milepost.RandomState()).save("store")
        """
    )
    plan_of = run_program(
        """
        import milepost
        plan = milepost.Checkpoint(random=milepost.RandomState()).restore("store")
        print([e.name for e in plan.entries if e.status == "ignored"])
        """
    )
    assert plan_of.stdout == "['random/torch/state']\n"
