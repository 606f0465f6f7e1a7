"""Structure: keys and containers to JSON and back, and names of what they hold."""

from __future__ import annotations

import collections
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import tree
from milepost.errors import DamagedError, UnsupportedObjectError
from milepost.tree import (
    build,
    children,
    containers,
    decode_key,
    encode_key,
    join,
    key_text,
    kind_of,
    leaf_names,
)

Point = collections.namedtuple("Point", ["x", "y"])

scalar_keys = st.one_of(
    st.text(),
    st.integers(),
    st.booleans(),
    st.none(),
    st.floats(allow_nan=False, allow_infinity=False),
)
keys = st.recursive(scalar_keys, lambda inner: st.lists(inner, max_size=3).map(tuple))
values = st.recursive(
    st.integers(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
    ),
    max_leaves=20,
)


def through_json(value):
    return json.loads(json.dumps(value))


def encode(value, leaves):
    """The structure of nested dicts, lists and tuples, as a framework captures it."""
    if isinstance(value, dict):
        return {"dict": [[encode_key(key), encode(v, leaves)] for key, v in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [encode(v, leaves) for v in value]}
    leaves.append(value)
    return None


def count_nodes(value):
    if not isinstance(value, dict | list | tuple):
        return 1
    return 1 + sum(map(count_nodes, value.values() if isinstance(value, dict) else value))


@given(key=keys)
@settings(deadline=None)
def test_a_key_comes_back_as_it_was(key):
    # By their text: to Python 1, 1.0 and True are equal.
    assert repr(decode_key(through_json(encode_key(key)))) == repr(key)


@given(value=values)
@settings(deadline=None)
def test_nested_containers_come_back_as_they_were(value):
    leaves = []
    node = through_json(encode(value, leaves))
    remaining = iter(leaves)
    assert repr(build(node, "", lambda _name, _node: next(remaining))) == repr(value)
    assert list(remaining) == []


@given(value=values)
@settings(deadline=None)
def test_leaves_are_built_in_the_order_of_their_names(value):
    node = through_json(encode(value, []))
    asked = []
    build(node, "top", lambda name, _node: asked.append(name))
    assert asked == list(leaf_names(node, "top"))


@given(value=values)
@settings(deadline=None)
def test_every_node_is_a_leaf_or_a_container(value):
    node = encode(value, [])
    assert len([*leaf_names(node, ""), *containers(node, "")]) == count_nodes(value)


@pytest.mark.parametrize(
    ("key", "encoded"),
    [
        ("a", "a"),
        ("", ""),
        (7, 7),
        (-(2**70), -(2**70)),
        (True, {"bool": True}),
        (False, {"bool": False}),
        (0.5, {"float": 0.5}),
        (None, {"none": True}),
        ((), {"tuple": []}),
        (("a", (1, None)), {"tuple": ["a", {"tuple": [1, {"none": True}]}]}),
    ],
)
def test_a_key_is_written_as_the_format_says(key, encoded):
    assert repr(encode_key(key)) == repr(encoded)


@pytest.mark.parametrize(
    "key",
    [
        *(b"a", float("nan"), float("inf"), 1j, frozenset({1}), int, object(), Point(1, 2)),
        *((1, b"a"), type("Text", (str,), {})("a"), type("Number", (int,), {})(1)),
    ],
)
def test_a_key_of_another_type_is_refused(key):
    with pytest.raises(UnsupportedObjectError, match="cannot be saved"):
        encode_key(key)


@pytest.mark.parametrize(
    "encoded",
    [
        *(None, True, 0.5, [], ["a"], {}, {"float": 0.5, "bool": True}, {"list": ["a"]}),
        *({"tuple": "ab"}, {"tuple": None}, {"tuple": [None]}, {"bytes": "YQ=="}),
    ],
)
def test_what_is_no_key_is_damage(encoded):
    with pytest.raises(DamagedError, match="a key that is none"):
        decode_key(encoded)


@pytest.mark.parametrize(
    ("key", "text"), [("a/b", "a/b"), (7, "7"), (True, "True"), (("a", 1), "('a', 1)")]
)
def test_a_key_reads_as_its_text_in_a_name(key, text):
    assert key_text(key) == text


def test_names_are_joined_by_a_slash_and_the_root_has_none():
    assert join("a/b", "c") == "a/b/c"
    assert join("", "c") == "c"


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        (None, "leaf"),
        ({"leaf": "torch"}, "leaf"),
        ({"dict": []}, "dict"),
        ({"deque": []}, "deque"),
        ({"class": "m.P", "namedtuple": []}, "namedtuple"),
        ({"object": [], "class": "m.P"}, "object"),
    ],
)
def test_a_node_tells_its_kind(node, kind):
    assert kind_of(node) == kind


@pytest.mark.parametrize("node", [{}, {"array": []}, {"class": "m.P"}, []])
def test_a_node_of_no_known_kind_is_damage(node):
    with pytest.raises(DamagedError, match="unknown kind"):
        kind_of(node)


@pytest.mark.parametrize("items", [None, 3, "ab", {"a": None}])
@pytest.mark.parametrize("kind", ["list", "dict", "namedtuple", "object"])
def test_a_container_without_a_list_of_children_is_damage(kind, items):
    with pytest.raises(DamagedError, match="not a list of children"):
        list(children({kind: items}))


@pytest.mark.parametrize("item", [None, "ab", [], ["a"], ["a", None, None], {"a": None}])
@pytest.mark.parametrize("kind", ["dict", "OrderedDict", "namedtuple", "object"])
def test_a_child_that_is_no_pair_is_damage(kind, item):
    with pytest.raises(DamagedError, match="child is no pair"):
        list(children({kind: [item]}))


def test_the_children_of_a_sequence_have_their_positions_for_keys():
    assert list(children({"tuple": [None, {"leaf": "jax"}]})) == [(0, None), (1, {"leaf": "jax"})]


def test_the_children_of_a_mapping_have_their_own_keys():
    node = {"dict": [["a", None], [{"bool": True}, {"leaf": "jax"}]]}
    assert list(children(node)) == [("a", None), (True, {"leaf": "jax"})]


@pytest.mark.parametrize("node", [None, {"leaf": "torch"}])
def test_a_leaf_has_no_children_and_one_name(node):
    assert list(children(node)) == []
    assert list(leaf_names(node, "a")) == ["a"]
    assert list(containers(node, "a")) == []


NESTED = {"dict": [["a", {"list": [None, {"tuple": []}]}], [3, None], ["b/c", {"leaf": "jax"}]]}


def test_leaf_names_leave_out_containers():
    assert list(leaf_names(NESTED, "top")) == ["top/a/0", "top/3", "top/b/c"]


def test_container_names_include_empty_ones_and_the_top():
    found = [("top", "dict"), ("top/a", "list"), ("top/a/1", "tuple")]
    assert list(containers(NESTED, "top")) == found


def test_the_maker_of_leaves_is_given_their_name_and_node():
    asked = []
    build(NESTED, "top", lambda name, node: asked.append((name, node)))
    assert asked == [("top/a/0", None), ("top/3", None), ("top/b/c", {"leaf": "jax"})]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("list", ["/0", "/1"]),
        ("tuple", ("/0", "/1")),
        ("set", {"/0", "/1"}),
        ("frozenset", frozenset({"/0", "/1"})),
        ("deque", collections.deque(["/0", "/1"])),
    ],
)
def test_a_sequence_is_built_as_its_own_kind(kind, expected):
    built = build({kind: [None, None]}, "", lambda name, _: f"/{name}")
    assert type(built) is type(expected)
    assert built == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("dict", {"a": "a"}),
        ("OrderedDict", collections.OrderedDict(a="a")),
        ("Counter", collections.Counter({"a": "a"})),
        ("defaultdict", {"a": "a"}),
        ("object", {"a": "a"}),
    ],
)
def test_a_mapping_is_built_as_its_own_kind_or_a_dict(kind, expected):
    built = build({kind: [["a", None]], "class": "m.P"}, "", lambda name, _: name)
    assert type(built) is type(expected)
    assert built == expected


def test_a_named_tuple_is_built_with_its_name_and_fields():
    node = {"namedtuple": [["x", None], ["y", None]], "class": "module.Outer.Point"}
    built = build(node, "p", lambda name, _: name)
    assert type(built).__name__ == "Point"
    assert built._asdict() == {"x": "p/x", "y": "p/y"}
    assert built == Point("p/x", "p/y")


def test_the_class_of_a_named_tuple_is_not_imported():
    node = {"namedtuple": [["x", None]], "class": "decimal.DecimalTuple"}
    assert type(build(node, "", lambda *_: 1)).__module__ != "decimal"


@pytest.mark.parametrize(
    "name", ["", "m.", "m.class", "m.a b", "m.x=1", "__import__('os').abort()"]
)
def test_a_named_tuple_whose_class_is_no_identifier_is_damage(name):
    with pytest.raises(DamagedError, match="named tuple that cannot be"):
        build({"namedtuple": [["x", None]], "class": name}, "", lambda *_: 1)


@pytest.mark.parametrize("field", ["", "def", "x y", "x, y=print()", 3, {"none": True}])
def test_a_named_tuple_whose_field_is_no_identifier_is_damage(field):
    with pytest.raises(DamagedError, match="named tuple that cannot be"):
        build({"namedtuple": [[field, None]], "class": "m.P"}, "", lambda *_: 1)


def test_a_named_tuple_without_a_class_is_damage():
    with pytest.raises(DamagedError, match="named tuple that cannot be"):
        build({"namedtuple": [["x", None]]}, "", lambda *_: 1)


def test_every_kind_of_the_tables_can_be_built_empty():
    for kind, make in {**tree.SEQUENCES, **tree.MAPPINGS}.items():
        assert build({kind: []}, "", lambda *_: 1) == make([] if kind in tree.SEQUENCES else {})


def test_a_named_tuple_with_fields_that_python_renamed():
    made = collections.namedtuple("P", ["a", "class", "b"], rename=True)
    node = {"namedtuple": [[field, None] for field in made._fields], "class": "m.P"}
    assert build(node, "", lambda name, _: name)._asdict() == {"a": "a", "_1": "_1", "b": "b"}


@pytest.mark.parametrize(
    "node",
    [
        5,
        "leaf",
        ["leaf"],
        {"set": [{"list": []}]},
        {"dict": [["a", None], ["a", None]]},
        {"dict": [[{"float": "x"}, None]]},
        {"dict": [[{"float": 10**400}, None]]},
        {"dict": [[{"bool": "no"}, None]]},
        {"namedtuple": [["fi", None], ["\ufb01", None]], "class": "m.P"},
    ],
)
def test_a_structure_that_cannot_be_is_damage(node):
    with pytest.raises(DamagedError):
        build(node, "", lambda *_: 1)


@pytest.mark.parametrize("key", ["\ud800", ("a", "\udfff")])
def test_a_key_without_a_utf_8_form_is_refused(key):
    with pytest.raises(UnsupportedObjectError, match="cannot be saved"):
        tree.encode_key(key)
