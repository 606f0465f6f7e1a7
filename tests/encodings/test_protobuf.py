"""Protobuf messages and packed numbers, as they lie in a file."""

from __future__ import annotations

import numpy as np
import pytest

from milepost.encodings import varints
from milepost.encodings.pages import Pages
from milepost.encodings.protobuf import Span, fields, walk
from milepost.encodings.varints import Varints
from milepost.errors import DamagedError


class _Memory:
    name = "memory"

    def __init__(self, data):
        self.data = data
        self.size = len(data)

    def read_into(self, offset, buffer):
        part = self.data[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    def close(self): ...


def _varint(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _walked(data, **options):
    return list(walk(Pages(_Memory(data)), Span(0, len(data)), **options))


def test_fields_in_a_file_are_those_in_memory():
    data = b"\x08\x96\x01" + b"\x12\x03abc" + b"\x1d1234" + b"\x2112345678" + b"\x32\x00"
    data = data + b"\x3a" + _varint(9000) + bytes(9000) + b"\x40\x07"
    found = [
        (number, value if isinstance(value, int) else data[value.position :][: value.length])
        for number, value in _walked(data)
    ]
    assert found == [
        (number, value if isinstance(value, int) else bytes(value))
        for number, value in fields(memoryview(data))
    ]
    assert found[-1] == (8, 7)


@pytest.mark.parametrize(
    "data",
    [
        b"\x12\x04abc",
        b"\x12" + _varint(2**64 - 1),
        b"\x08" + b"\xff" * 11,
        b"\x08",
        b"\x0b",
        b"\x1d123",
        _varint(1 << 35) + b"\1",
    ],
)
def test_what_is_no_message(data):
    with pytest.raises(ValueError):  # noqa: PT011
        _walked(data)


def test_a_message_that_is_cut():
    assert _walked(b"\x12\x04abc", cut=True) == [(2, Span(2, 4))]


def test_reads_are_limited():
    pages = Pages(_Memory(bytes(100)), most_reads=10)
    for _ in range(10):
        pages.read(0, 1)
    with pytest.raises(DamagedError, match="pieces"):
        pages.read(0, 1)
    for position, length in ((99, 2), (-1, 1), (2**63, 1), (0, 101)):
        with pytest.raises(DamagedError):
            Pages(_Memory(bytes(100))).read(position, length)


def test_packed_numbers_are_read_by_index(monkeypatch):
    monkeypatch.setattr(varints, "_BLOCK", 7)  # so that numbers lie across blocks
    chance = np.random.default_rng(7)
    values = chance.integers(0, 2**64, 200, np.uint64) >> chance.integers(0, 64, 200, np.uint64)
    data = b"".join(_varint(int(value)) for value in values)
    numbers = Varints(_Memory(b"xx" + data), 2, len(data))
    for first in range(0, 200, 3):
        for stop in (first, first + 1, first + 2, min(200, first + 50), 200):
            found = numbers.read(first, min(stop, 200), 200)
            assert found.tolist() == values[first : min(stop, 200)].tolist()
    with pytest.raises(DamagedError, match="201"):
        numbers.read(0, 1, 201)
