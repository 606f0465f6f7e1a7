"""`rename=`: what has another name here is restored whole, whatever kind of thing it is."""

from __future__ import annotations

import random
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from milepost import Checkpoint, errors
from milepost.checkpoint.selection import Renaming, Selection
from milepost.state import ObjectInfo


class Loader:
    def __init__(self, position: int) -> None:
        self.position = position

    def state_dict(self):
        return {"position": self.position, "order": np.arange(self.position)}

    def load_state_dict(self, state):
        assert len(state["order"]) == state["position"]
        self.position = state["position"]


def test_a_generator(tmp_path: Path):
    saved = np.random.default_rng(1)
    Checkpoint(gen=saved).save(tmp_path)
    here = np.random.default_rng(2)
    Checkpoint(rng=here).restore(tmp_path, rename={"gen": "rng"})
    assert here.random() == saved.random()


def test_pythons_generator_inside_of_a_dict(tmp_path: Path):
    saved, here = random.Random(1), random.Random(2)
    Checkpoint(a={"old": saved}).save(tmp_path)
    Checkpoint(a={"new": here}).restore(tmp_path, rename={"a/old": "a/new"})
    assert here.random() == saved.random()


def test_an_object_with_a_state_dict(tmp_path: Path):
    Checkpoint(data=Loader(3)).save(tmp_path)
    here = {"loaders": [Loader(0), Loader(1)]}
    Checkpoint(here=here).restore(
        tmp_path, rename={"data": "here/loaders/1"}, only=["here/loaders/1"]
    )
    assert [loader.position for loader in here["loaders"]] == [0, 3]


@pytest.mark.parametrize(
    ("saved", "live", "rename"),
    [
        ({"hist": [1, 2, 3]}, {"history": []}, {"p/hist": "p/history"}),
        ({"hist": [1, 2, 3]}, {}, {"p/hist": "p/history"}),
        ({"a": {"hist": {1, 2}}}, {"b": {"history": {3}}}, {"p/a/hist": "p/b/history"}),
        ({"a": {"x": np.float32(2)}}, {"b": {}}, {"p/a": "p/b"}),
        ({3: {"x": (1, 2)}}, {4: {"x": (0, 0)}}, {"p/3": "p/4"}),
        ({"a": 1, "b": 2}, {"a": 0, "b": 0}, {"p/a": "p/b", "p/b": "p/a"}),
    ],
)
def test_containers(tmp_path: Path, saved, live, rename):
    Checkpoint(p=saved).save(tmp_path)
    plan = Checkpoint(p=live).restore(tmp_path, rename=rename)
    assert plan.is_exact
    expected = {
        "p/history": {"history": [1, 2, 3]},
        "p/b/history": {"b": {"history": {1, 2}}},
        "p/4": {4: {"x": (1, 2)}},
    }
    other = {"a": 2, "b": 1} if len(rename) == 2 else {"b": {"x": np.float32(2)}}
    assert live == expected.get(next(iter(rename.values())), other)
    if live == {"b": {"x": 2}}:
        assert type(live["b"]["x"]) is np.float32


def test_a_renamed_layer_and_its_optimizer(tmp_path: Path):
    def make(*names: str):
        net = torch.nn.Sequential(OrderedDict((name, torch.nn.Linear(2, 2)) for name in names))
        optimizer = torch.optim.Adam(net.parameters())
        net(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        return Checkpoint(net=net, optimizer=optimizer), net, optimizer

    saved, net, optimizer = make("first", "zlast")
    saved.save(tmp_path)
    checkpoint, other, others = make("zfirst", "alast")
    rename = {}
    for old, new in [("first", "zfirst"), ("zlast", "alast")]:
        rename |= {
            f"net/{old}": f"net/{new}",
            f"optimizer/state/net/{old}": f"optimizer/state/net/{new}",
        }
    assert checkpoint.restore(tmp_path, rename=rename).is_exact
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(optimizer.state[a]["exp_avg"], others.state[b]["exp_avg"])


def test_what_finds_no_place_is_refused_and_not_said_to_be_done(tmp_path: Path):
    Checkpoint(a={"x": [1, 2]}, b=[0]).save(tmp_path)
    here = [7]
    with pytest.raises(errors.RestoreRefusedError):
        Checkpoint(b=here).restore(tmp_path, rename={"a/x": "b/x"})
    assert here == [7]


def test_structures_go_where_their_leaves_go():
    saved = {
        "a": ObjectInfo("python", {"dict": [["x", {"list": [None]}], ["y", None]]}),
        "b": ObjectInfo("torch", {"dict": [["0.weight", {"leaf": "torch"}]]}, {"k": 1}),
    }
    live = {"c": ObjectInfo("python", {"dict": [["in", {"OrderedDict": []}]]})}
    found = Renaming({"a/x": "c/in/x", "b": "d", "b/0": "d/1"}).objects(saved, live)
    assert found["a"].structure == {"dict": [["y", None]]}
    assert found["c"].structure == {"dict": [["in", {"OrderedDict": [["x", {"list": [None]}]]}]]}
    assert found["d"] == ObjectInfo("torch", {"dict": [["1.weight", {"leaf": "torch"}]]}, {"k": 1})


def test_selections():
    names = ["model/0.weight", "model/0.bias", "model/10.bias", "log/loss", "a[1]/b"]
    for only, selected in [
        (["model"], names[:3]),
        (["model/0"], names[:2]),
        (["*.bias", "log"], names[1:4]),
        (["a[1]"], ["a[1]/b"]),
        (None, names),
        ([], []),
    ]:
        selection = Selection(only, names)
        assert [name for name in names if name in selection] == selected
    with pytest.raises(errors.UsageError, match="neither"):
        Selection(["model", "modle"], names)
