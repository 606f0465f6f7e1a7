"""Packs: what room their header gets before its digests are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost.buffers import BLOCK
from milepost.limits import is_writable
from milepost.pieces import cut_array, digest_array
from milepost.store.pack import PackPlan

NAMES = st.dictionaries(
    st.text(min_size=1, max_size=40),
    st.lists(st.integers(1, 5), max_size=4),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(NAMES, st.booleans())
def test_the_room_for_a_header_is_enough_and_hardly_more(shapes, big):
    arrays = {
        name: np.full(shape, i, np.float64)
        for i, (name, shape) in enumerate(shapes.items())
        if is_writable(name)
    }
    if big:  # cut into slices, whose names are longer
        arrays["large"] = np.zeros((3, 1 << 20), np.float64)
    plan = PackPlan([(a, a.pieces) for a in (cut_array(n, x) for n, x in arrays.items())])
    for name, array in arrays.items():
        digested = digest_array(name, array)
        for piece in digested.pieces:
            if piece.digest not in plan.digests:
                plan.keep(digested, piece)
    ref, header, places = plan.layout("packs/1.pack")
    assert len(header) == plan.head_bytes
    assert ref.nbytes <= plan.nbytes
    assert all(place.position >= plan.head_bytes for place in places.values())


@pytest.mark.parametrize(
    "name", ["w", "ü" * 30, 'a"b\\c', "tab\tnew\nline", "\x00\x1f\x7f", "日本"]
)
def test_the_room_is_hardly_more_than_the_header(name):
    arrays = [digest_array(f"{name}{i}", np.full(16, i, np.float32)) for i in range(200)]
    plan = PackPlan([(array, array.pieces) for array in arrays])
    for array in arrays:
        plan.keep(array, array.pieces[0])
    _, header, _ = plan.layout("packs/1.pack")
    used = len(header.rstrip(b" "))
    assert used <= plan.head_bytes <= used + 16 * len(arrays) + BLOCK
