"""Plain values, containers, dataclasses, and whatever has `state_dict`."""

from __future__ import annotations

import collections
import dataclasses
import enum
import math
import random
from typing import Any, NamedTuple

import numpy as np
import pytest

import milepost
from milepost import Checkpoint
from milepost.testing import FrameworkTests


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass
class Mutable:
    weights: np.ndarray
    epoch: int = 0


@dataclasses.dataclass(frozen=True)
class Frozen:
    pair: Pair
    rate: float


class Loader:
    """As a stateful data loader: what it holds changes with its position."""

    def __init__(self):
        self.position = 0
        self.buffer: list[np.ndarray] = []

    def state_dict(self):
        return {"position": self.position, "buffer": self.buffer}

    def load_state_dict(self, state):
        self.position, self.buffer = state["position"], state["buffer"]


class TestContainers(FrameworkTests):
    def make(self):
        return {
            "list": [1, 2.5, None],
            "tuple": (True, "text", b"bytes"),
            3: {"nested": [[], {}, ()]},
            "ordered": collections.OrderedDict(b=1, a=2),
            "deque": collections.deque([1, 2]),
            "counter": collections.Counter("aab"),
            "set": {1, 2},
            "frozen": frozenset(["x"]),
            "pair": Pair(1, np.zeros(2)),
        }

    def change(self, value):
        value["list"][0] += 5
        value["tuple"] = (False, "other", b"\xff")
        value[3]["nested"][0].append(7)
        value["ordered"]["b"] = -1
        value["deque"].append(3)
        value["counter"].update("c")
        value["set"].add(value["list"][0])
        value["frozen"] = frozenset(["x", "y"])
        value["pair"] = Pair(value["pair"].first + 1, value["pair"].second + 1)
        return value


class TestDataclass(FrameworkTests):
    def make(self):
        return Mutable(np.zeros(3))

    def change(self, value):
        value.weights += 1
        value.epoch += 1
        return value


class TestFrozenDataclass(FrameworkTests):
    def make(self):
        return Frozen(Pair(0, np.zeros(2)), 0.5)

    def change(self, value):
        pair = Pair(value.pair.first + 1, value.pair.second + 1)
        return dataclasses.replace(value, rate=value.rate / 2, pair=pair)


class TestStateDict(FrameworkTests):
    def make(self):
        return Loader()

    def change(self, value):
        value.position += 1
        value.buffer.append(np.full(3, value.position))
        return value


class TestRandom(FrameworkTests):
    def make(self):
        return random.Random(5)

    def change(self, value):
        value.gauss(0, 1)
        return value


@pytest.mark.parametrize(
    "value",
    [None, True, False, 0, -1, 2**53 + 1, -(2**200), 0.1, -0.0, math.inf, -math.inf, math.nan,
     1e-320, "", "naïve ☃ \x00 \ud800", b"", bytes(range(256))],
)  # fmt: skip
def test_plain_values_come_back_as_they_were(tmp_path, value):
    Checkpoint(value=value, inside=[value]).save(tmp_path)
    checkpoint = Checkpoint(value=0, inside=[0])
    checkpoint.restore(tmp_path)
    for found in (checkpoint.objects["value"], checkpoint.inside[0]):
        assert type(found) is type(value)
        assert repr(found) == repr(value)


def test_kinds_of_containers_and_keys_are_kept(tmp_path):
    tree = {
        "list": [1],
        "tuple": (1, (2,)),
        7: "int key",
        ("a", 1): "tuple key",
        True: "bool key",
        None: "none key",
        "pair": Pair(1, 2),
        "empty": [(), {}, [], set()],
    }
    milepost.save_state(tmp_path, tree)
    loaded = milepost.load_state(tmp_path)
    assert loaded == tree
    assert list(loaded) == list(tree)
    assert type(loaded["pair"]).__name__ == "Pair"
    assert loaded["pair"].second == 2
    assert [type(x) for x in loaded["empty"]] == [tuple, dict, list, set]


def test_the_kind_of_the_live_container_is_kept(tmp_path):
    Checkpoint(a={"x": 1}).save(tmp_path)
    live = collections.defaultdict(int, x=0)
    Checkpoint(a=live).restore(tmp_path)
    assert live["x"] == 1
    assert live["never seen"] == 0


def test_keys_with_slashes_read_as_they_are(tmp_path):
    params = {"mlp/~/linear_0": {"w": np.ones(2)}}
    Checkpoint(params=params).save(tmp_path)
    assert list(milepost.open(tmp_path).latest) == ["params/mlp/~/linear_0/w"]
    milepost.save_state(tmp_path / "other", params)
    assert list(milepost.load_state(tmp_path / "other")) == ["mlp/~/linear_0"]


def test_an_enum_is_its_number(tmp_path):
    class Mode(enum.IntEnum):
        TRAIN = 3

    Checkpoint(a={"mode": Mode.TRAIN}).save(tmp_path)
    assert milepost.open(tmp_path).latest["a/mode"] == 3


def test_a_large_bytes_value(tmp_path):
    Checkpoint(blob=bytes(10_000)).save(tmp_path)
    assert milepost.open(tmp_path).latest["blob"] == bytes(10_000)
