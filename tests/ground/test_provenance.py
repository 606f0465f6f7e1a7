"""What is recorded beside the leaves: versions, metrics, metadata, and nothing more."""

from __future__ import annotations

import decimal
import math
import platform
import sys
import types

import numpy as np
import pytest

import milepost
from milepost import provenance
from milepost.errors import UsageError

FRAMEWORKS = ("keras", "tensorflow", "torch", "jax", "flax", "optax", "equinox", "transformers")


@pytest.fixture
def no_frameworks(monkeypatch):
    for name in FRAMEWORKS:
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("no_frameworks")
def test_versions_are_those_of_milepost_python_and_numpy():
    assert provenance.versions() == {
        "milepost": milepost.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


@pytest.mark.usefixtures("no_frameworks")
def test_a_framework_is_recorded_once_it_is_imported(monkeypatch):
    module = types.ModuleType("jax")
    module.__version__ = "0.99"
    monkeypatch.setitem(sys.modules, "jax", module)
    assert provenance.versions()["jax"] == "0.99"


@pytest.mark.usefixtures("no_frameworks")
def test_looking_for_versions_imports_nothing():
    before = set(sys.modules)
    provenance.versions()
    assert set(sys.modules) == before


@pytest.mark.usefixtures("no_frameworks")
def test_a_framework_that_may_not_be_imported_is_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "torch" not in provenance.versions()


@pytest.mark.usefixtures("no_frameworks")
def test_a_framework_without_a_version_is_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    assert "torch" not in provenance.versions()


def test_a_version_is_text_whatever_the_package_says(monkeypatch):
    module = types.ModuleType("torch")
    module.__version__ = (2, 6)
    monkeypatch.setitem(sys.modules, "torch", module)
    assert provenance.versions()["torch"] == "(2, 6)"


@pytest.mark.parametrize("value", [3, 2**70, 0.5, -0.0, math.inf])
def test_a_number_stays_as_it_is(value):
    found = provenance.numbers({"loss": value})["loss"]
    assert repr(found) == repr(value)


def test_a_metric_may_be_nan():
    assert math.isnan(provenance.numbers({"loss": math.nan})["loss"])


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.array(2.5), 2.5),
        (decimal.Decimal("0.25"), 0.25),
    ],
)
def test_a_scalar_of_another_kind_becomes_a_float(value, number):
    found = provenance.numbers({"loss": value})["loss"]
    assert type(found) is float
    assert found == number


@pytest.mark.parametrize("value", [None, "high", 1j, [1.0, 2.0], np.zeros(2), {"a": 1}])
def test_a_metric_that_is_no_number_is_refused_by_name(value):
    with pytest.raises(UsageError, match="metric 'accuracy' should be a number"):
        provenance.numbers({"loss": 0.5, "accuracy": value})


def test_metrics_keep_their_order_and_have_text_for_names():
    assert list(provenance.numbers({"z": 1, 5: 2, "a": 3})) == ["z", "5", "a"]


def test_metadata_is_given_as_it_will_be_read_back():
    given = {"tags": ("a", "b"), 7: {True: None}, "text": "é\n", "number": 2**70, "x": 0.1}
    assert provenance.json_values(given) == {
        "tags": ["a", "b"],
        "7": {"true": None},
        "text": "é\n",
        "number": 2**70,
        "x": 0.1,
    }


def test_later_changes_of_the_callers_metadata_do_not_show():
    tags = ["a"]
    kept = provenance.json_values({"tags": tags})
    tags.append("b")
    assert kept == {"tags": ["a"]}


@pytest.mark.parametrize(
    "value",
    [b"bytes", {1, 2}, object(), math.nan, math.inf, np.float32(1), {(1, 2): 3}, [[1j]]],
)
def test_metadata_that_json_cannot_hold_is_refused(value):
    with pytest.raises(UsageError, match="metadata must be JSON values"):
        provenance.json_values({"key": value})


def test_metadata_that_contains_itself_is_refused():
    loop: list = []
    loop.append(loop)
    with pytest.raises(UsageError, match="metadata must be JSON values"):
        provenance.json_values({"loop": loop})


def test_metadata_nested_too_deep_is_refused():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UsageError, match="metadata must be JSON values"):
        provenance.json_values({"deep": deep})


def test_metadata_that_is_no_mapping_is_refused():
    with pytest.raises(UsageError, match="metadata must be JSON values"):
        provenance.json_values([1, 2])


@pytest.mark.parametrize("value", ["0.5", b"1", None, [1]])
def test_text_is_no_number(value):
    with pytest.raises(UsageError, match="should be a number"):
        provenance.numbers({"loss": value})


def test_whole_numbers_stay_exact():
    assert provenance.numbers({"n": np.int64(2**60 + 1), "b": True}) == {"n": 2**60 + 1, "b": 1}


def test_metadata_without_a_utf_8_form_is_refused():
    with pytest.raises(UsageError, match="metadata must be JSON"):
        provenance.json_values({"note": "\ud800"})


@pytest.mark.parametrize("value", [10**400, -(10**400), 10**5000], ids=["400", "-400", "5000"])
def test_a_metric_that_does_not_fit_a_float_is_refused(value):
    with pytest.raises(UsageError, match="metric 'loss' should be a number that fits a float"):
        provenance.numbers({"loss": value})


@pytest.mark.parametrize("metrics", [[1], [("loss", 1)], "loss", 3, []])
def test_metrics_that_are_no_mapping_are_refused(metrics):
    with pytest.raises(UsageError, match="metrics must be a mapping to numbers"):
        provenance.numbers(metrics)


def test_a_metric_whose_name_has_no_utf_8_form_is_refused():
    with pytest.raises(UsageError, match=r"the metric '\\ud800' has a name that is no text"):
        provenance.numbers({"\ud800": 1})


def test_a_number_whose_framework_refuses_is_refused():
    class Tensor:
        def __float__(self):
            raise RuntimeError("a Tensor with 2 elements cannot be converted to Scalar")

    with pytest.raises(UsageError, match="should be a number, found a value of type Tensor"):
        provenance.numbers({"loss": Tensor()})


@pytest.mark.parametrize("metadata", [[("a", 1)], "ab", 3, []])
def test_metadata_that_only_looks_like_a_mapping_is_refused(metadata):
    with pytest.raises(UsageError, match="metadata must be JSON values.*expected a mapping"):
        provenance.json_values(metadata)
