"""Flax's msgpack files, beside what Flax reads."""

from __future__ import annotations

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import ml_dtypes
import msgpack
import numpy as np
import optax
import pytest
from flax.serialization import msgpack_restore, msgpack_serialize, to_bytes

import milepost
from milepost.errors import DamagedError, MilepostError, UnknownFormatError, VersionError
from milepost.testing import FormatTests, same_value

CHANCE = np.random.default_rng(7)


def leaves_of(tree, path=""):
    """The leaves by the names that milepost gives them."""
    if isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {
            name: leaf
            for key, value in items
            for name, leaf in leaves_of(value, f"{path}/{key}".lstrip("/")).items()
        }
    is_array = isinstance(tree, np.ndarray | np.generic | complex)
    return {path: np.asarray(tree) if is_array else tree}


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, param_dtype=jnp.bfloat16)(nn.BatchNorm(False)(nn.Dense(8)(x)))


class TestTrainState(FormatTests):
    """Variables and an optimizer's state, as training loops save them."""

    def make(self, folder):
        variables = Model().init(jax.random.key(7), jnp.ones((2, 4)))
        optimizer = optax.adam(1e-3).init(variables["params"])
        data = to_bytes({"step": 12, "variables": variables, "optimizer": optimizer})
        path = folder / "state.msgpack"
        path.write_bytes(data)
        return path, leaves_of(msgpack_restore(data))


class TestEverything(FormatTests):
    """All that msgpack_serialize writes."""

    def make(self, folder):
        tree = {
            "plain": {"none": None, "true": True, "int": -(2**40), "float": 0.1, "text": "ä"},
            "bytes": b"\x00\xff",
            "complex": 1 - 2j,
            "list": [1, np.arange(3), {"x": np.float16(0.5)}, []],
            "scalar": np.float32(0.25),
            "zero axes": np.array(3, np.int8),
            "empty": np.zeros((0, 4), np.uint16),
            "flags": np.array([True, False]),
            "fortran": np.asfortranarray(CHANCE.normal(size=(50, 70))),
            "times": np.arange(4).astype("M8[ns]"),
            "long": np.arange(3, dtype=np.longdouble),
            "a/b.c": np.arange(6, dtype=np.complex64),
            "nothing": {},
            **{
                name: np.arange(5).astype(getattr(ml_dtypes, name))
                for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4")
            },
        }
        data = msgpack_serialize(tree)
        path = folder / "everything.msgpack"
        path.write_bytes(data)
        return path, leaves_of(msgpack_restore(data))


class TestPieces(FormatTests):
    """Arrays of more than a gigabyte are written in pieces: here of more than 1000 bytes."""

    def make(self, folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 1000)
            tree = {
                "large": CHANCE.normal(size=(30, 7, 5)).astype(np.float32),
                "below": {"half": jnp.arange(1001, dtype=jnp.bfloat16)},
                "small": np.arange(3),
            }
            data = msgpack_serialize(tree)
        assert data.count(b"__msgpack_chunked_array__") == 2
        path = folder / "large.msgpack"
        path.write_bytes(data)
        return path, leaves_of(msgpack_restore(data))


def test_many_keys_and_long_ones(tmp_path):
    tree = {"a key of more than thirty-one bytes" + str(n): np.arange(n) for n in range(70)}
    (tmp_path / "a").write_bytes(msgpack_serialize(tree))
    with milepost.open(tmp_path / "a") as snapshot:
        assert sorted(snapshot) == sorted(tree)
        assert snapshot.description.format == "flax"
        same_value(snapshot["a key of more than thirty-one bytes9"][2:5], np.arange(2, 5), "slice")


@pytest.mark.parametrize("length", [255, 256, 2_000, 65_535])
def test_the_first_key_is_as_long_as_a_key_may_be(tmp_path, length):
    (tmp_path / "a").write_bytes(msgpack_serialize({"n" * length: np.arange(3)}))
    with milepost.open(tmp_path / "a") as snapshot:
        assert list(snapshot) == ["n" * length]
        same_value(snapshot["n" * length][:], np.arange(3), "array")


def array(shape, dtype, data, code=1):
    return msgpack.ExtType(code, msgpack.packb((shape, dtype, data)))


def pieces(shape, chunks, **more):
    return {"__msgpack_chunked_array__": True, "shape": shape, "chunks": chunks, **more}


PIECE = array([2], "float32", bytes(8))
HOSTILE = {
    "fewer bytes than its shape": (array([3], "float32", bytes(8)), DamagedError),
    "a shape that wraps": (array([2**32, 2**32], "float32", b""), DamagedError),
    "zeros that hide a wrap": (array([0, 2**62], "float64", b""), DamagedError),
    "a negative shape": (array([-2, -1], "float32", bytes(8)), DamagedError),
    "a shape of text": (array("22", "float32", bytes(16)), DamagedError),
    "objects": (array([1], "object", bytes(8)), VersionError),
    "code for a dtype": (array([1], "__import__('os')", bytes(8)), VersionError),
    "a unit that is none": (array([1], "datetime64[parsec]", bytes(8)), VersionError),
    "a number for a dtype": (array([1], 4, bytes(4)), DamagedError),
    "an array that is no msgpack": (msgpack.ExtType(1, b"\xc1"), DamagedError),
    "an array of too many parts": (array([1] * 1000, "float32", bytes(4)), DamagedError),
    "an unknown type": (msgpack.ExtType(9, b"abc"), UnknownFormatError),
    "a complex number of texts": (msgpack.ExtType(2, msgpack.packb(("1", "2"))), DamagedError),
    "a huge binary string": (bytes(2 << 20), UnknownFormatError),
    "pieces of other dtypes": (
        pieces({"0": 4}, {"0": PIECE, "1": array([1], "float64", bytes(8))}),
        DamagedError,
    ),
    "pieces that are not enough": (pieces({"0": 5}, {"0": PIECE, "1": PIECE}), DamagedError),
    "no pieces": (pieces({"0": 0}, {}), DamagedError),
    "pieces out of order": (pieces({"0": 2}, {"1": PIECE}), DamagedError),
    "pieces that are no arrays": (pieces({"0": 2}, {"0": 7}), DamagedError),
    "pieces without a shape": (pieces(None, {"0": PIECE}), DamagedError),
    "pieces and more": (pieces({"0": 2}, {"0": PIECE}, other=1), DamagedError),
    "too many arrays": ([PIECE] * 40_000, DamagedError),
    "a leaf twice": ({"b": 1, "b/c": 1, "b//": {}, "": 1}, DamagedError),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path, name):
    value, error = HOSTILE[name]
    (tmp_path / "a.msgpack").write_bytes(msgpack.packb({"leaf": value}))
    with pytest.raises(error):
        milepost.open(tmp_path / "a.msgpack")


@pytest.mark.parametrize("tree", [{"a/b": 1, "a": {"b": 2}}, {"1": 1, 1: 2}, {"a\nb": 1}], ids=repr)
def test_names_that_would_not_be_one_leaf_each_are_refused(tmp_path, tree):
    (tmp_path / "a.msgpack").write_bytes(msgpack.packb({"leaf": tree}))
    with pytest.raises(DamagedError):
        milepost.open(tmp_path / "a.msgpack")


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x05K\x01.",
        *(b"\x89PNG\r\n\x1a\n" + bytes(64), b"\x89XXX\r\n\x1a\n" + bytes(64)),
        *(b"\x81\x01\x02" + bytes(64), b"\x82\xa3\x00ab" + bytes(64), b"\x85" + bytes(64)),
    ],
)
def test_other_files_are_not_taken_for_one(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(MilepostError) as caught:
        milepost.open(tmp_path / "a")
    assert "msgpack" not in str(caught.value)
