"""Hostile structures of JAX models: refused with an error of ours, and nothing is run."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.tree_util import Partial

from milepost import errors, load_model, register, save_model
from tests.model.test_model_file import rewrite


@register
def hostile_test_apply(params, x):
    return x * params


LINEN = nn.Dense(2)
MODELS: dict[str, tuple[str, Any]] = {
    "nnx": ("nnx", lambda: nnx.Linear(2, 2, rngs=nnx.Rngs(0))),
    "linen": ("linen", lambda: LINEN.bind(LINEN.init(jax.random.key(0), jnp.ones((1, 2))))),
    "equinox": ("module", lambda: eqx.nn.Linear(2, 2, key=jax.random.key(0))),
    "function": ("arguments", lambda: Partial(hostile_test_apply, jnp.ones(2))),
}
POPEN = {"custom": "Popen", "module": "subprocess", "qualname": "Popen"}


def nested(depth):
    node: Any = 1
    for _ in range(depth):
        node = {"list": [node]}
    return node


@dataclasses.dataclass
class Record:
    x: int


def fields(cls, *pairs, **more):
    return {"module": cls, "fields": [list(pair) for pair in pairs], **more}


LINEAR = {"type": "Linear"}
NODES = {
    "a class outside the list": fields(POPEN, ["args", ["touch", "x"]], data={}),
    "a class of another module": fields({"type": "subprocess.Popen"}, data={}),
    "a class that was passed and is no module": fields({"custom": "print"}, data={}),
    "a class that is a function": fields({"function": "jax.nn.relu"}, data={}),
    "a function by a dotted name": fields(LINEAR, ["f", {"function": "os.system"}], data={}),
    "a function of JAX that opens files": fields(LINEAR, ["f", {"function": "jax.numpy.load"}]),
    "a partial of no function": {
        "partial": [{"function": "os.system"}, {"list": []}, {"dict": []}]
    },
    "a maker that is none": {"initializer": "os.system", "arguments": {}},
    "a maker's arguments": {"initializer": "normal", "arguments": {"__class__": 1}},
    "an attribute that Python reads": fields(LINEAR, ["__class__", POPEN], data={}),
    "another such attribute": fields(LINEAR, ["__dict__", {"dict": []}], data={}),
    "a field that the class has not": fields(LINEAR, ["os", 1], ["bias", {"array": "os"}]),
    "a name that is no text": fields(LINEAR, [["kernel"], 1], data={}),
    "a variable of an unknown type": {"variable": {"type": "os"}, "metadata": [], "value": 1},
    "a variable of a type of the caller's": {"variable": POPEN, "metadata": [], "value": 1},
    "an array that the file has not": {"array": "jax"},
    "a key of an unknown generator": {"array": "key", "generator": "os.urandom"},
    "a dtype that is none": {"dtype": "object"},
    "a precision that is none": {"precision": ["HIGHEST"]},
    "shared with nothing": {"shared": "nothing"},
    "deep nesting": nested(400),
    "an unknown kind": {"exec": "import os"},
    "no node": [1, 2],
    "an array twice": {"partial": [{"array": "jax"}, {"list": []}, {"dict": []}]},
    "an enumeration that is none": {"enum": {"custom": "print"}, "member": "x"},
    "a record of no class": {"dataclass": {"custom": "eval"}, "items": []},
    "a record of a class outside the list": {"dataclass": POPEN, "items": [["args", "touch"]]},
    "a tuple of no named tuple": {"namedtuple": {"custom": "Record"}, "items": [["x", 1]]},
    "a record's own attribute": {"dataclass": {"custom": "Record"}, "items": [["__class__", 1]]},
    "a scalar of too few bytes": {"scalar": ["float64", "00"]},
    "a scalar of objects": {"scalar": ["object", "00" * 8]},
    "a slice of no numbers": {"slice": [{"function": "os.system"}, 1, 1]},
    "two kinds": {"bytes": "AA==", "str": "AA=="},
}


@pytest.fixture(scope="module", params=MODELS)
def saved(request, tmp_path_factory):
    where, make = MODELS[request.param]
    path = tmp_path_factory.mktemp(request.param) / "model"
    save_model(make(), path)
    return where, path.read_bytes()


@pytest.mark.parametrize("kind", NODES)
def test_nodes(saved, tmp_path, kind):
    where, data = saved
    path = tmp_path / "model"
    path.write_bytes(data)
    rewrite(path, lambda body: body["structure"].update({where: NODES[kind]}))
    before = set(sys.modules)
    with pytest.raises(errors.MilepostError):
        load_model(path, custom_objects={"eval": eval, "print": print, "Record": Record})
    assert not {name for name in set(sys.modules) - before if not name.startswith("milepost")}


def test_a_class_is_imported_only_if_it_is_trusted(tmp_path):
    where, make = MODELS["nnx"]
    save_model(make(), tmp_path / "model")
    node = fields({"custom": "X", "module": "this", "qualname": "X"}, data={})
    rewrite(tmp_path / "model", lambda body: body["structure"].update({where: node}))
    with pytest.raises(errors.UnknownClassError, match="'X'"):
        load_model(tmp_path / "model")
    assert "this" not in sys.modules


def test_attributes_never_replace_what_nnx_keeps(tmp_path):
    where, make = MODELS["nnx"]
    save_model(make(), tmp_path / "model")

    def change(body):
        body["structure"][where]["fields"].append(["_pytree__nodes", 3])

    rewrite(tmp_path / "model", change)
    assert load_model(tmp_path / "model")(jnp.ones((1, 2))).shape == (1, 2)
