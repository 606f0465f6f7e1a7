"""States: what is plain, what is an array, and which rule holds where."""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
import pytest

from milepost import tree
from milepost.errors import UnsupportedObjectError
from milepost.state import (
    ArrayLike,
    LeafSpec,
    ObjectInfo,
    Rule,
    State,
    ancestors,
    is_array,
    is_plain,
    join,
    rule_at,
    spec_of,
)

PLAIN = {
    "None": None,
    "bool": True,
    "int": 10**30,
    "float": float("nan"),
    "str": "\ud800",
    "bytes": b"\x00",
}
ARRAYS = {
    "bool": np.True_,
    "int64": np.int64(3),
    "float16": np.float16(0.5),
    "float32": np.float32(0.5),
    "float64": np.float64(0.5),
    "complex128": np.complex128(1j),
}


@pytest.mark.parametrize(("name", "value"), PLAIN.items())
def test_a_plain_value_is_specified_by_its_type_and_has_no_shape(name, value):
    assert is_plain(value)
    assert not is_array(value)
    assert spec_of(value) == LeafSpec(name, None)


@pytest.mark.parametrize(("name", "value"), ARRAYS.items())
def test_a_numpy_scalar_is_an_array_without_dimensions(name, value):
    assert is_array(value)
    assert not is_plain(value)
    assert spec_of(value) == LeafSpec(name, ())


@pytest.mark.parametrize("value", [[1], (1,), {"a": 1}, {1}, bytearray(b"x"), 1j, object()])
def test_a_container_or_another_object_is_not_plain(value):
    assert not is_plain(value)


def test_an_array_is_specified_by_dtype_and_shape_whatever_its_byte_order():
    assert spec_of(np.zeros((2, 3), ">f4")) == LeafSpec("float32", (2, 3))


def test_an_array_of_strings_has_no_spec():
    with pytest.raises(UnsupportedObjectError, match="<U1"):
        spec_of(np.array(["a"]))


def test_a_numpy_array_is_array_like_and_a_list_is_not():
    assert isinstance(np.zeros(3), ArrayLike)
    assert not isinstance([0.0], ArrayLike)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (LeafSpec("float32", (2, 3)), "float32[2, 3]"),
        (LeafSpec("bfloat16", (7,)), "bfloat16[7]"),
        (LeafSpec("int8", ()), "int8[]"),
        (LeafSpec("None", None), "None"),
    ],
)
def test_a_spec_reads_as_dtype_and_shape(spec, text):
    assert str(spec) == text


def test_a_spec_knows_whether_it_is_of_an_array():
    assert LeafSpec("float32", ()).is_array
    assert not LeafSpec("float", None).is_array


@pytest.mark.parametrize(
    ("name", "above"),
    [
        ("a/b/c", ["a/b/c", "a/b", "a", ""]),
        ("a", ["a", ""]),
        ("", [""]),
        ("a//b", ["a//b", "a/", "a", ""]),
    ],
)
def test_ancestors_lead_from_the_name_to_the_root(name, above):
    assert list(ancestors(name)) == above


def test_names_are_joined_as_in_the_tree():
    assert join is tree.join


def test_without_rules_nothing_may_depart():
    assert rule_at({}, "a/b") == Rule(0)


def test_the_nearest_rule_above_a_leaf_holds():
    rules = {"": Rule.IGNORES, "a": Rule.GROWS, "a/b": Rule.SHRINKS, "a/x": Rule.KEEPS}
    assert rule_at(rules, "a/b/c") is Rule.SHRINKS
    assert rule_at(rules, "a/c") is Rule.GROWS
    assert rule_at(rules, "z") is Rule.IGNORES


def test_a_rule_holds_below_its_name_and_not_at_it():
    assert rule_at({"a/b": Rule.GROWS}, "a/b") == Rule(0)


def test_a_name_that_begins_alike_is_not_below():
    assert rule_at({"layer": Rule.GROWS}, "layer2/kernel") == Rule(0)


def test_an_empty_rule_ends_the_rules_above_it():
    assert rule_at({"a": Rule.GROWS, "a/b": Rule(0)}, "a/b/c") == Rule(0)


def test_replaced_holds_over_every_rule_nearer_to_the_leaf():
    rules = {"a": Rule.REPLACED, "a/b": Rule.GROWS, "a/b/c": Rule(0)}
    assert rule_at(rules, "a/b/c/d") is Rule.REPLACED


def test_replaced_holds_when_it_comes_with_another_rule():
    rules = {"a": Rule.REPLACED | Rule.KEEPS, "a/b": Rule.GROWS}
    assert rule_at(rules, "a/b/c") == Rule.REPLACED | Rule.KEEPS


def test_replaced_at_the_leaf_itself_does_not_hold():
    assert rule_at({"a": Rule.GROWS, "a/b": Rule.REPLACED}, "a/b") is Rule.GROWS


def test_a_state_needs_only_its_leaves():
    state = State({"a": 1})
    assert (state.objects, state.rules, state.ties) == ({}, {}, {})
    assert ObjectInfo("python") == ObjectInfo("python", None, {})


@pytest.mark.parametrize("value", [State({}), ObjectInfo("python")])
def test_values_are_frozen_and_slotted(value):
    assert not hasattr(value, "__dict__")
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, None)


def test_a_subclass_of_a_plain_type_is_called_by_its_base():
    class Mode(enum.IntEnum):
        TRAIN = 1

    assert spec_of(Mode.TRAIN).dtype == "int"
