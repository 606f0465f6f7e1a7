"""Plans: every leaf by name, and nothing touched before all of it is known to be right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from milepost import Checkpoint, errors


@pytest.fixture
def store(tmp_path: Path) -> Path:
    model = {
        "encoder": {"kernel": np.ones((3, 4), np.float32), "bias": np.ones(4, np.float32)},
        "head": {"kernel": np.full((4, 2), 2, np.float32)},
        "counts": np.arange(3, dtype=np.int64),
    }
    Checkpoint(model=model, progress={"epoch": 5}).save(tmp_path / "store")
    return tmp_path / "store"


def fresh() -> dict:
    return {
        "encoder": {"kernel": np.zeros((3, 4), np.float32), "bias": np.zeros(4, np.float32)},
        "head": {"kernel": np.zeros((4, 2), np.float32)},
        "counts": np.zeros(3, np.int64),
    }


def changed(model: dict) -> dict[str, float]:
    """The sum of every array, to see which were touched."""
    return {
        "encoder/kernel": float(model["encoder"]["kernel"].sum()),
        "encoder/bias": float(model["encoder"].get("bias", np.zeros(1)).sum()),
        "head/kernel": float(next(iter(model["head"].values())).sum()),
    }


def test_an_exact_plan_lists_every_leaf(store: Path):
    plan = Checkpoint(model=fresh(), progress={"epoch": 0}).plan(store)
    assert plan.is_exact
    assert plan.count("exact") == len(plan.entries) == 5
    assert [entry.name for entry in plan.entries][:2] == [
        "model/encoder/kernel",
        "model/encoder/bias",
    ]
    assert plan.step == 1


def test_a_plan_changes_nothing(store: Path):
    model = fresh()
    Checkpoint(model=model, progress={"epoch": 0}).plan(store)
    assert changed(model) == {"encoder/kernel": 0, "encoder/bias": 0, "head/kernel": 0}


def test_every_kind_of_difference_is_listed_and_refused(store: Path):
    model = fresh()
    model["encoder"]["kernel"] = np.zeros((3, 5), np.float32)  # another shape
    model["encoder"]["bias"] = np.zeros(4, np.float64)  # another dtype
    model["head"] = {"weight": np.zeros((4, 2), np.float32)}  # another name
    model["counts"] = "three"  # another kind of thing
    progress = {"epoch": 0}
    checkpoint = Checkpoint(model=model, progress=progress)
    with pytest.raises(errors.RestoreRefusedError) as caught:
        checkpoint.restore(store)
    plan = caught.value.plan
    assert {entry.name: entry.status.value for entry in plan.refused} == {
        "model/encoder/kernel": "mismatched",
        "model/encoder/bias": "cast",
        "model/head/weight": "missing",
        "model/counts": "mismatched",
        "model/head/kernel": "unexpected",
    }
    message = str(caught.value)
    assert "model/encoder/kernel: expected float32[3, 5], found float32[3, 4]" in message
    assert "model/encoder/bias: expected float64[4], found float32[4]" in message
    assert "model/head/weight: expected float32[4, 2], found nothing" in message
    assert "model/head/kernel: expected nothing, found float32[4, 2]" in message
    assert "rename={'model/head/kernel': 'model/head/weight'}" in message
    assert "Nothing was changed" in message
    assert changed(model) == {"encoder/kernel": 0, "encoder/bias": 0, "head/kernel": 0}
    assert progress == {"epoch": 0}


def test_not_strict_takes_what_fits_and_says_so(store: Path):
    model = fresh()
    model["encoder"]["kernel"] = np.zeros((3, 5), np.float32)
    model["encoder"]["bias"] = np.zeros(4, np.float16)
    model["head"] = {"weight": np.zeros((4, 2), np.float32)}
    progress = {"epoch": 0}
    plan = Checkpoint(model=model, progress=progress).restore(store, strict=False)
    assert changed(model) == {"encoder/kernel": 0, "encoder/bias": 4, "head/kernel": 0}
    assert model["encoder"]["bias"].dtype == np.float16
    assert model["counts"].tolist() == [0, 1, 2]
    assert progress == {"epoch": 5}
    report = str(plan)
    assert "cast to the dtype of the object:\n    model/encoder/bias" in report
    assert "missing in the snapshot, left as they are:\n    model/head/weight" in report
    assert "unexpected, left out:\n    model/head/kernel" in report
    assert "mismatched, left as they are:\n    model/encoder/kernel" in report


def test_rename_a_leaf(store: Path):
    model = fresh()
    model["head"] = {"weight": np.zeros((4, 2), np.float32)}
    plan = Checkpoint(model=model, progress={}).restore(
        store, rename={"model/head/kernel": "model/head/weight"}
    )
    assert plan.is_exact
    assert changed(model)["head/kernel"] == 16
    assert "model/head/weight" in [e.name for e in plan.entries if e.source == "model/head/kernel"]


def test_rename_a_subtree(store: Path):
    model = fresh()
    model["backbone"] = model.pop("encoder")
    Checkpoint(network=model, progress={}).restore(
        store, rename={"model": "network", "model/encoder": "network/backbone"}
    )
    assert model["backbone"]["kernel"].sum() == 12


def test_rename_of_nothing_is_a_mistake(store: Path):
    with pytest.raises(errors.UsageError, match="'model/hat'.*has nothing of that name"):
        Checkpoint(model=fresh()).restore(store, rename={"model/hat": "model/head"})
    with pytest.raises(errors.UsageError, match="to both"):
        Checkpoint(model=fresh()).restore(store, rename={"model/encoder": "model/head"})


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (["model/encoder"], {"encoder/kernel": 12, "encoder/bias": 4, "head/kernel": 0}),
        (["*/kernel"], {"encoder/kernel": 12, "encoder/bias": 0, "head/kernel": 16}),
        (
            ["model/head/kernel", "progress"],
            {"encoder/kernel": 0, "encoder/bias": 0, "head/kernel": 16},
        ),
    ],
)
def test_only_some_leaves(store: Path, only, expected):
    model, progress = fresh(), {"epoch": 0}
    model["new"] = np.zeros(2)  # not selected, so that it is missing does not matter
    plan = Checkpoint(model=model, progress=progress).restore(store, only=only)
    assert changed(model) == expected
    assert progress == {"epoch": 5 if "progress" in only else 0}
    assert plan.is_exact


def test_only_leaves_lists_alone_that_it_does_not_name(tmp_path: Path):
    Checkpoint(a=[1, 2, 3], b=[1]).save(tmp_path)
    a, b = [0], [7, 8]
    Checkpoint(a=a, b=b).restore(tmp_path, only=["a"])
    assert a == [1, 2, 3]
    assert b == [7, 8]


def test_only_of_nothing_is_a_mistake(store: Path):
    with pytest.raises(
        errors.UsageError, match="'optimizer'.*neither the objects nor the snapshot"
    ):
        Checkpoint(model=fresh()).restore(store, only=["optimizer"])
    with pytest.raises(errors.UsageError, match="write only=\\['model'\\]"):
        Checkpoint(model=fresh()).restore(store, only="model")


def test_a_complex_number_is_not_cast_to_a_real_one(tmp_path: Path):
    Checkpoint(a=np.ones(3, np.complex64)).save(tmp_path)
    array = np.zeros(3, np.float32)
    plan = Checkpoint(a=array).restore(tmp_path, strict=False)
    assert plan.count("mismatched") == 1
    assert array.tolist() == [0, 0, 0]


def test_a_number_may_have_been_a_numpy_scalar(tmp_path: Path):
    Checkpoint(log={"loss": np.float32(0.5), "epoch": 3}).save(tmp_path)
    log = {"loss": 0, "epoch": np.int64(0)}
    Checkpoint(log=log).restore(tmp_path)
    assert log == {"loss": 0.5, "epoch": 3}
    assert type(log["loss"]) is np.float32
    assert type(log["epoch"]) is int


def test_a_plan_of_a_thousand_differences_is_short(tmp_path: Path):
    Checkpoint(a={f"x{i}": np.zeros(2) for i in range(1000)}).save(tmp_path)
    with pytest.raises(errors.RestoreRefusedError, match="and 980 more") as caught:
        Checkpoint(a={f"y{i}": np.zeros(3) for i in range(1000)}).restore(tmp_path)
    assert len(str(caught.value).splitlines()) < 60
    assert caught.value.plan.count("missing") == 1000
