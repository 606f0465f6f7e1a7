"""Dataclasses of which there are very many: frozen to the type checker, and cheap to make."""

from __future__ import annotations

import dataclasses

import pytest

from milepost.chunk import Chunk, Encoding
from milepost.container import TensorEntry
from milepost.fingerprint import Fingerprint
from milepost.light import light
from milepost.pieces import Piece
from milepost.record import ArrayRecord, PlainRecord
from milepost.state import LeafSpec

VALUES = [
    LeafSpec("int", None),
    TensorEntry("U8", (), 0, 1),
    Chunk((0,), (2,), None, None, 0, 0, 8),
    Encoding("stored", 8, "xxh3:0"),
    ArrayRecord("float32", (2,), ()),
    PlainRecord(1),
    Piece((0,), (2,), 0, 8, "blake3:0", "xxh3:0"),
    Fingerprint(1, 2),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_they_are_values(value):
    same = dataclasses.replace(value)
    assert same is not value
    assert same == value
    assert hash(same) == hash(value)
    assert not hasattr(value, "__dict__")


def test_the_type_checker_takes_them_for_frozen():
    found = light.__dataclass_transform__
    # Python 3.11 does not know the argument yet, and keeps it with all other ones.
    assert {**found, **found["kwargs"]}["frozen_default"] is True
