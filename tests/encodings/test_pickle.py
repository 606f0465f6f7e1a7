"""Pickles as what they say: all protocols, and symbols in place of what they would do."""

from __future__ import annotations

import argparse
import os
import pickle
import random

import pytest

from milepost.encodings.pickle import Call, Global, PersistentId, globals_in, interpret
from milepost.errors import DamagedError, MilepostError, UntrustedError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
PLAIN = {
    "texts": ["", "é\n\\", "\ud800", "'\""],
    "numbers": [0, 1, -1, 255, 256, 65535, 65536, -(2**31), 2**31, 2**70, -(2**70)],
    "floats": [0.0, -0.0, 1e300, float("inf")],
    "others": (None, True, False, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    3: {"nested": [[], {}, [{"deep": (1, [2])}]]},
}


def same(node):
    return node


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data(protocol):
    assert interpret(pickle.dumps(PLAIN, protocol), same) == PLAIN


def test_sets_and_bytes():
    value = {"s": {1, 2}, "f": frozenset([3]), "b": b"\xff" * 300, "a": bytearray(b"q")}
    assert interpret(pickle.dumps(value, 5), same) == value


def test_sharing_is_kept():
    shared: list[object] = []
    first, second = interpret(pickle.dumps([shared, shared]), same)  # type: ignore[misc]
    assert first is second
    shared.append(shared)
    found = interpret(pickle.dumps(shared), same)
    assert isinstance(found, list)
    assert found[0] is found


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_globals_are_never_looked_for(protocol):
    found = interpret(pickle.dumps(os.system, protocol), same)
    assert isinstance(found, Global)
    assert found.name == "system"


def test_strings_of_python_2():
    assert interpret(b"S'a\\x41\\n'\n.", same) == "aA\n"
    assert interpret(b"U\x02\xff\xfe.", same) == b"\xff\xfe"
    assert interpret(b"T\x02\x00\x00\x00ab.", same) == "ab"


@pytest.mark.parametrize("protocol", range(2, 6))
def test_objects_are_calls_with_their_state(protocol):
    found = interpret(pickle.dumps(argparse.Namespace(rate=0.1), protocol), same)
    assert isinstance(found, Call)
    assert (str(found.function), found.new, found.state) == (
        "argparse.Namespace",
        True,
        {"rate": 0.1},
    )


def test_items_and_pairs_of_calls():
    found = interpret(b"ca\nb\n)\x81(K\x01K\x02e(K\x03K\x04u.", same)
    assert isinstance(found, Call)
    assert (found.items, found.pairs) == ([1, 2], [(3, 4)])


def test_build_makes_objects():
    def build(node):
        if isinstance(node, PersistentId):
            return f"outside: {node.value}"
        return {} if str(node.function) == "collections.OrderedDict" else node

    assert interpret(b"ccollections\nOrderedDict\n)RK\x01K\x02s.", build) == {1: 2}
    assert interpret(b"X\x01\x00\x00\x00xQ.", build) == "outside: x"
    assert interpret(b"Px\n.", build) == "outside: x"


def test_globals_with_their_places():
    data = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93cbuiltins\neval\n(ia\nb\n\x82\x07."
    found = [(str(g), g.offset) for g in globals_in(data)]
    assert found == [
        ("os.system", 16),
        ("builtins.eval", 17),
        ("a.b", 33),
        ("copyreg.extension.7", 38),
    ]


def test_globals_by_way_of_the_memo():
    twice = b"\x8c\x06system\x940\x8c\x02os\x940h\x01h\x00\x93."
    put = b"Vos\np9\n0S'system'\np8\n0g9\ng8\n\x93."
    below = b"\x8c\x02os(KKl0\x8c\x06system\x93."
    for data in (twice, put, below):
        assert [str(g) for g in globals_in(data)] == ["os.system"]


def test_globals_of_pickles_behind_one_another_and_before_an_end():
    one = b"cos\nsystem\n."
    assert len(list(globals_in(one + one + b"cos\nsystem\n\xff"))) == 3
    assert [str(g) for g in globals_in(b"cos\nsystem\nR" + b"\xff" * 99)] == ["os.system"]
    assert [str(g) for g in globals_in(b"RRR((ttbbcos\nsystem\n")] == ["os.system"]


def test_a_name_that_only_running_would_tell():
    assert [str(g) for g in globals_in(b"NN\x93.")] == ["?.?"]


@pytest.mark.parametrize(
    "data",
    [b"", b".", b"R.", b"NR.", b"]Ns.", b"NNa.", b"Nt.", b"\xff", b"F1x\n.", b"Ix\n.", b"S'a\n."],
)
def test_what_is_no_pickle(data):
    with pytest.raises(DamagedError):
        interpret(data, same)


def test_too_many_operations():
    with pytest.raises(UntrustedError):
        interpret(b"N0" * 1_500_000 + b"N.", same)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_changed_at_random(protocol):
    chance = random.Random(protocol)
    whole = pickle.dumps([PLAIN, argparse.Namespace(a=PLAIN), {1}, os.system], protocol)
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(data))
            data[place : place + chance.randint(0, 2)] = chance.randbytes(chance.randint(0, 3))
        list(globals_in(bytes(data)))
        try:
            interpret(bytes(data), same)
        except MilepostError:
            pass
