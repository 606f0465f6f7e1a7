"""A restore changes everything or nothing, whatever is nested in what, and whoever fails."""

from __future__ import annotations

import collections
import dataclasses
import enum
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import milepost
from milepost import Checkpoint, errors


class Loader:
    """A data loader of the user's, which hands out what it likes, and can refuse it back."""

    def __init__(self, state: object, *, fails: bool = False) -> None:
        self.state, self.fails = state, fails

    def state_dict(self):
        return {"state": self.state}

    def load_state_dict(self, state):
        self.state = state["state"]
        if self.fails:
            raise ValueError("no such shard")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_code_that_fails_costs_nothing(tmp_path: Path, nested, first):
    def make(value: float, fails: bool):
        net = torch.nn.Linear(2, 2)
        with torch.no_grad():
            net.weight.fill_(value)
        good, bad = Loader(value), Loader(value, fails=fails)
        parts = {"array": np.full(3, value), "net": net, "log": [value], "good": good, "bad": bad}
        parts["random"] = random.Random(value)
        if first:
            parts = dict(reversed(parts.items()))
        return parts, Checkpoint(**({"all": parts} if nested else parts))

    make(1.0, False)[1].save(tmp_path)
    parts, checkpoint = make(0.0, True)
    with pytest.raises(ValueError, match="no such shard") as raised:
        checkpoint.restore(tmp_path)
    assert "put back" in raised.value.__notes__[0]
    assert parts["array"].tolist() == [0, 0, 0]
    assert (parts["net"].weight == 0).all()
    assert parts["log"] == [0.0]
    assert parts["good"].state == parts["bad"].state == 0.0
    assert parts["random"].random() == random.Random(0.0).random()


@pytest.mark.parametrize(
    ("live", "saved"),
    [
        (None, torch.arange(5)),
        (torch.arange(0), torch.arange(5)),
        (torch.arange(5), None),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        ("text", np.arange(3)),
        ([np.zeros(2)], [np.zeros(3), np.zeros(4)]),
        ({"a": 1}, [1, 2]),
    ],
    ids=str,
)
def test_only_its_owner_knows_what_a_state_dict_may_hold(tmp_path: Path, live, saved):
    Checkpoint(loader=Loader(saved)).save(tmp_path)
    loader = Loader(live)
    assert Checkpoint(loader=loader).restore(tmp_path).is_exact
    assert repr(loader.state) == repr(saved)


def test_what_a_state_dict_shares_is_its_own_affair(tmp_path: Path):
    one, other = np.ones(3), np.zeros(3)
    Checkpoint(loader=Loader({"best": one, "now": other})).save(tmp_path)
    loader = Loader({"best": one, "now": one})
    Checkpoint(loader=loader).restore(tmp_path)
    assert loader.state["now"].tolist() == [0, 0, 0]


def test_a_part_of_what_is_taken_back_whole_is_refused(tmp_path: Path):
    Checkpoint(loader=Loader({"a": 1, "b": 2})).save(tmp_path)
    loader = Loader({"a": 0, "b": 0})
    with pytest.raises(errors.RestoreRefusedError, match="only with the rest of 'loader'"):
        Checkpoint(loader=loader).restore(tmp_path, only=["loader/state/a"])
    assert loader.state == {"a": 0, "b": 0}
    plan = Checkpoint(loader=loader).restore(tmp_path, only=["loader/state/a"], strict=False)
    assert plan.count("mismatched") == 1
    assert loader.state == {"a": 0, "b": 0}


def test_containers_that_a_state_dict_hands_out_keep_their_kind(tmp_path: Path):
    Checkpoint(loader=Loader(collections.deque([1, 2, 3], maxlen=3))).save(tmp_path)
    loader = Loader(None)
    Checkpoint(loader=loader).restore(tmp_path)
    loader.state.append(4)
    assert loader.state == collections.deque([2, 3, 4])


@pytest.mark.parametrize(
    ("live", "saved"),
    [
        ({1: 0}, {"1": 5}),
        ({"1": 0}, {1: 5}),
    ],
)
def test_keys_are_the_live_ones(tmp_path: Path, live, saved):
    Checkpoint(p=saved).save(tmp_path)
    expected = dict.fromkeys(live, 5)
    checkpoint = Checkpoint(p=live)
    checkpoint.restore(tmp_path)
    assert live == expected
    checkpoint.save(tmp_path)


@pytest.mark.parametrize(
    ("live", "saved"),
    [
        ([{"loss": 1.0}, {"loss": 2.0}], [{"loss": 3.0}]),
        ([(1, 2), (3, 4)], [(5, 6)]),
        ([[1], [2, 3]], [[4]]),
        ([np.float64(1), np.float64(2)], [np.float64(3)]),
        ([{"loss": 1.0}], [{"loss": 3.0, "lr": 1}, {"loss": 4.0}]),
        ([], [{"a": {"b": [1]}}]),
    ],
)
def test_a_history_grows_and_shrinks(tmp_path: Path, live, saved):
    Checkpoint(p={"history": saved}).save(tmp_path)
    progress = {"history": live}
    Checkpoint(p=progress).restore(tmp_path)
    assert progress == {"history": saved}


@pytest.mark.parametrize(
    ("live", "saved"),
    [
        ({"x": []}, {"x": {"a": 1}}),
        ({"x": {}}, {"x": [1, 2]}),
        ({"x": None}, {"x": {"loss": 1}}),
    ],
)
def test_another_kind_of_container_is_refused(tmp_path: Path, live, saved):
    Checkpoint(p=saved).save(tmp_path)
    expected = repr(live)
    with pytest.raises(errors.RestoreRefusedError, match="unexpected:\n    p/x/"):
        Checkpoint(p=live).restore(tmp_path)
    plan = Checkpoint(p=live).restore(tmp_path, strict=False)
    assert plan.count("added") == 0
    assert repr(live) == expected


def test_the_order_of_an_ordered_dict(tmp_path: Path):
    Checkpoint(p=collections.OrderedDict(a=1, b=2, c=3)).save(tmp_path)
    live = collections.OrderedDict(c=0, a=0, b=0)
    Checkpoint(p=live).restore(tmp_path)
    assert list(live.items()) == [("a", 1), ("b", 2), ("c", 3)]


def test_a_frozen_dataclass_is_not_made_by_its_constructor(tmp_path: Path):
    @dataclasses.dataclass(frozen=True)
    class Frozen:
        a: int
        b: int = dataclasses.field(init=False, default=0)

        def __post_init__(self) -> None:
            object.__setattr__(self, "a", self.a + 1)

    saved = Frozen(5)
    object.__setattr__(saved, "b", 9)
    Checkpoint(f=saved).save(tmp_path)
    checkpoint = Checkpoint(f=Frozen(0))
    checkpoint.restore(tmp_path)
    assert (checkpoint.f.a, checkpoint.f.b) == (6, 9)


def test_a_set_holds_what_can_be_put_into_one_again(tmp_path: Path):
    @dataclasses.dataclass(frozen=True)
    class Point:
        x: int

    with pytest.raises(errors.UnsupportedObjectError, match="points is a set.*use a list"):
        Checkpoint(points={Point(1)}).save(tmp_path)
    live: set = set()
    saved = {1, "a", (2, None), frozenset({3}), np.int64(4)}
    Checkpoint(s=saved).save(tmp_path)
    Checkpoint(s=live).restore(tmp_path)
    assert live == saved


def test_a_member_of_an_enum_is_its_value(tmp_path: Path):
    class Color(str, enum.Enum):  # noqa: UP042 - the form whose str() is not its value
        RED = "red"

    milepost.save_state(tmp_path, {"color": Color.RED})
    assert milepost.load_state(tmp_path) == {"color": "red"}


def test_what_cannot_be_saved_says_so(tmp_path: Path):
    deep: list = []
    for _ in range(2000):
        deep = [deep]
    with pytest.raises(errors.UnsupportedObjectError, match="deep is nested too deeply"):
        Checkpoint(deep=deep).save(tmp_path)
    with pytest.raises(errors.UnsupportedObjectError, match="has no state: leave it out"):
        Checkpoint(generator=random.SystemRandom()).save(tmp_path)


def test_a_store_that_was_deleted_meanwhile_is_made_again(tmp_path: Path):
    checkpoint = Checkpoint(a=1)
    checkpoint.save(tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").mkdir()
    checkpoint.save(tmp_path / "store")
    assert milepost.open(tmp_path / "store").steps == [1]


def test_like_stays_as_it_is(tmp_path: Path):
    @dataclasses.dataclass
    class Pair:
        x: np.ndarray
        y: list

    def make(value: int):
        return {
            "array": np.full(2, value),
            "tensor": torch.full((2,), value),
            "pair": Pair(np.full(2, value), [value]),
            "deque": collections.deque([value]),
            "set": {value},
            "tuple": (np.full(2, value), {"a": value}),
        }

    milepost.save_state(tmp_path, make(1))
    milepost.save_state(tmp_path, make(2))
    like = make(0)
    one, two = (milepost.load_state(tmp_path, like=like, step=step) for step in (1, 2))
    assert [repr(tree) for tree in (like, one, two)] == [repr(make(i)) for i in range(3)]


def test_an_optimizer_finds_its_model_in_a_dataclass(tmp_path: Path):
    class Net(torch.nn.Module):
        def __init__(self, names: str) -> None:
            super().__init__()
            for name in names:
                setattr(self, name, torch.nn.Parameter(torch.ones(2)))

    @dataclasses.dataclass
    class State:
        net: Net
        optimizer: torch.optim.Optimizer

    def make(names: str) -> State:
        net = Net(names)
        optimizer = torch.optim.Adam(net.parameters())
        (net.a.sum() * 3 + net.b.sum()).backward()
        optimizer.step()
        return State(net, optimizer)

    saved = make("ab")
    Checkpoint(s=saved).save(tmp_path)
    other = make("ba")
    other.optimizer.state.clear()
    Checkpoint(s=other).restore(tmp_path)
    for name in "ab":
        mine = other.optimizer.state[getattr(other.net, name)]["exp_avg"]
        assert torch.equal(mine, saved.optimizer.state[getattr(saved.net, name)]["exp_avg"])
