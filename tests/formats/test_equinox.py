"""Leaves saved by Equinox, beside what Equinox reads."""

from __future__ import annotations

import json

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import milepost
from milepost.errors import DamagedError, UntrustedError
from milepost.testing import FormatTests, same_value
from milepost.testing.watch import soon


class Model(equinox.Module):
    mlp: equinox.nn.MLP
    half: jax.Array
    table: np.ndarray
    rate: float
    steps: int
    flag: bool
    phase: complex
    name: str


def model():
    return Model(
        equinox.nn.MLP(3, 2, 8, 2, key=jax.random.key(7)),
        jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3) / 7,
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        0.1,
        12,
        True,
        1 + 2j,
        "not saved",
    )


def leaves_of(path, like, before=0):
    with open(path, "rb") as file:
        file.seek(before)
        loaded = equinox.tree_deserialise_leaves(file, like)
    arrays = [leaf for leaf in jax.tree.leaves(loaded) if equinox.is_array_like(leaf)]
    return {str(number): np.asarray(leaf) for number, leaf in enumerate(arrays)}


class TestLeaves(FormatTests):
    def make(self, folder):
        path = folder / "model.eqx"
        equinox.tree_serialise_leaves(path, model())
        return path, leaves_of(path, model())


class TestHyperparametersAndLeaves(FormatTests):
    """What Equinox's own example of serialisation writes."""

    def make(self, folder):
        path = folder / "model.eqx"
        line = json.dumps({"width": 8, "notes": "n" * 900}).encode() + b"\n"
        with path.open("wb") as file:
            file.write(line)
            equinox.tree_serialise_leaves(file, model())
        return path, leaves_of(path, model(), len(line))

    def test_the_hyperparameters_are_metadata(self, made):
        with milepost.open(made[0]) as snapshot:
            assert snapshot.metadata["hyperparameters"]["width"] == 8


def test_it_says_what_it_is(tmp_path):
    equinox.tree_serialise_leaves(tmp_path / "a.eqx", model())
    with milepost.open(tmp_path / "a.eqx") as snapshot:
        assert snapshot.description.format == "equinox"
        assert snapshot.spec("6").dtype == "bfloat16"


def test_one_leaf_is_a_npy_file(tmp_path):
    equinox.tree_serialise_leaves(tmp_path / "a.eqx", jnp.arange(3))
    with milepost.open(tmp_path / "a.eqx") as snapshot:
        assert (snapshot.description.format, list(snapshot)) == ("npy", ["array"])


def test_objects_are_refused(tmp_path):
    with (tmp_path / "a.eqx").open("wb") as file:
        np.save(file, np.zeros(3))
        np.save(file, np.array([{}], object), allow_pickle=True)
    with pytest.raises(UntrustedError):
        milepost.open(tmp_path / "a.eqx")


def test_something_else_behind_an_array_is_refused(tmp_path):
    with (tmp_path / "a.eqx").open("wb") as file:
        np.save(file, np.zeros(3))
        file.write(b"something else")
    with pytest.raises(DamagedError, match=r"expected an array in \.npy form"):
        milepost.open(tmp_path / "a.eqx")


def test_millions_of_arrays_are_refused_soon(tmp_path):
    with (tmp_path / "a.eqx").open("wb") as file:
        np.save(file, np.int8(1))
    one = (tmp_path / "a.eqx").read_bytes()
    (tmp_path / "a.eqx").write_bytes(one * 1_000_000)
    with soon(4), pytest.raises(DamagedError, match="arrays"):
        milepost.open(tmp_path / "a.eqx")


def test_opening_reads_headers_only(tmp_path):
    with (tmp_path / "a.eqx").open("wb") as file:
        for _ in range(3):
            header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 28,)}
            np.lib.format.write_array_header_1_0(file, header)
            file.seek(1 << 30, 1)
        file.truncate()
    with soon(0.15), milepost.open(tmp_path / "a.eqx") as snapshot:
        assert len(snapshot) == 3


def test_void_of_two_bytes_is_bfloat16_as_for_jax(tmp_path):
    with (tmp_path / "a.eqx").open("wb") as file:
        for _ in range(2):
            np.save(file, np.asarray(jnp.arange(3, dtype=jnp.bfloat16)).view("V2"))
    with milepost.open(tmp_path / "a.eqx") as snapshot, (tmp_path / "a.eqx").open("rb") as file:
        same_value(snapshot.read("0"), np.asarray(jnp.load(file)), "0")
