"""Msgpack, beside what the msgpack library reads; and what is refused."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest

from milepost.encodings.msgpack import Span, read
from milepost.errors import DamagedError
from tests.encodings.sources import Bytes

VALUES = [
    *(None, True, False, "", "text", "ä" * 20, "x" * 40, "x" * 300, "x" * 70_000),
    *(0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**64 - 1),
    *(-1, -32, -33, -128, -129, -32_768, -32_769, -(2**31), -(2**31) - 1, -(2**63)),
    *(0.0, -0.5, 1e300, float("inf")),
    *([], [1, [2, [3]]], list(range(20)), list(range(70_000))),
    *({}, {"a": {"b": 1, 2: "c"}}, {str(n): n for n in range(20)}, {n: n for n in range(70_000)}),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_it_reads_what_msgpack_writes(value):
    assert read(Bytes(msgpack.packb(value))) == value


def test_floats_of_32_bits():
    assert read(Bytes(msgpack.packb(0.1, use_single_float=True))) == np.float32(0.1)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 8, 16, 17, 255, 256, 65_535, 65_536, 10**7])
def test_large_parts_stay_in_the_file(length):
    for value, code in (
        (bytes(range(256)) * (length // 256) + bytes(length % 256), None),
        (msgpack.ExtType(5, b"x" * length), 5),
    ):
        data = msgpack.packb([value, 7])
        source = Bytes(data)
        span, after = read(source)
        assert after == 7
        assert (span.length, span.code) == (length, code)
        assert data[span.start : span.end] == (value if code is None else value.data)
        assert source.read <= 3 * 4096


def test_a_part_of_a_file():
    data = b"???" + msgpack.packb([1, b"abc"]) + b"???"
    assert read(Bytes(data), 3, len(data) - 3) == [1, Span(7, 3)]


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


HOSTILE = {
    "nothing": b"",
    "something behind": b"\xc0\xc0",
    "no type": b"\xc1",
    "half a number": b"\xcd\x01",
    "half a text": b"\xa5abc",
    "no text": b"\xa2\xff\xfe",
    "half a binary": b"\xc4\x05abc",
    "half an extension": b"\xd8\x01abc",
    "an extension without a type": b"\xc7\x00",
    "a list of billions": b"\xdd\xff\xff\xff\xff\xc0",
    "a map of billions": b"\xdf\xff\xff\xff\xff\xa1a\xc0",
    "a text of gigabytes": b"\xdb\xff\xff\xff\xffabc",
    "a key twice": b"\x82\xa1a\xc0\xa1a\xc0",
    "a list for a key": b"\x81\x91\xc0\xc0",
    "an empty list for a key": b"\x81\x90\xc0",
    "a float for a key": b"\x81\xcb" + bytes(8) + b"\xc0",
    "true for a key": b"\x81\xc3\xc0",
    "a map for a key": b"\x81\x81\xa1a\xc0\xc0",
    "maps for keys of maps, deeply": b"\x81" * 10_000 + b"\xc0" * 10_001,
    "nested deeply": nested(1000),
    "nested very deeply": nested(10_000_000),
    "millions of values": b"\xdd\x00\x98\x96\x80" + b"\xc0" * 10_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused(name):
    with pytest.raises(DamagedError):
        read(Bytes(HOSTILE[name]))


def test_some_depth_is_allowed():
    assert read(Bytes(nested(60)))
