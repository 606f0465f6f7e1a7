"""Byte planes: what is encoded comes back, and what is not an encoding is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost.encodings.planes import (
    BLOCK,
    WIDTHS,
    Planes,
    Way,
    blocks,
    lows,
    stream_lengths,
    table,
    table_bytes,
)

LAYOUTS = [(width, low) for width in WIDTHS for low in lows(width)]


def _weights(count: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(count) * 0.02).astype("<f4")


def _undone(planes: Planes, block: np.ndarray, base: np.ndarray | None) -> np.ndarray:
    streams = [memoryview(stream) for stream in planes.encode(block, base)]
    out = np.empty_like(block)
    planes.decode(streams, base, out)
    return out


@pytest.mark.parametrize(("width", "low"), LAYOUTS)
@pytest.mark.parametrize("with_base", [False, True])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_bits_come_back(width: int, low: int, with_base: bool, data: st.DataObject):
    count = data.draw(st.integers(1, 300))
    sizes = st.binary(min_size=count * width, max_size=count * width)
    block = np.frombuffer(data.draw(sizes), f"<u{width}")
    base = np.frombuffer(data.draw(sizes), f"<u{width}") if with_base else None
    assert np.array_equal(_undone(Planes(width, low), block, base), block)


@pytest.mark.parametrize(("width", "low"), LAYOUTS)
def test_whole_blocks_come_back_one_after_another(width: int, low: int):
    """Nothing of a block stays in the scratch memory for the next."""
    planes = Planes(width, low)
    raw, other = _weights(BLOCK * 3), _weights(BLOCK * 3, seed=1)
    pairs = zip(blocks(raw.data.cast("B"), width), blocks(other.data.cast("B"), width), strict=True)
    for number, (block, base) in enumerate(pairs):
        found = _undone(planes, block, base if number % 2 else None)
        assert np.array_equal(found, block)


def test_weights_shrink_and_their_small_changes_more():
    before = _weights(BLOCK)
    after = before + (np.random.default_rng(1).standard_normal(BLOCK) * 1e-5).astype("<f4")
    planes, block, base = Planes(4, 2), after.view("<u4"), before.view("<u4")
    alone = sum(map(len, planes.encode(block, None)))
    differences = sum(map(len, planes.encode(block, base)))
    assert differences < 0.6 * after.nbytes < 0.8 * after.nbytes < alone < 0.86 * after.nbytes


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("with_base", [False, True])
def test_planes_come_back_however_they_are_compressed(way: Way, with_base: bool):
    planes, block, base = Planes(4, 0), _weights(5000).view("<u4"), _weights(5000, 1).view("<u4")
    other = base if with_base else None
    streams = planes.encode(block, other, [way] * 4)
    out = np.empty_like(block)
    planes.decode([memoryview(stream) for stream in streams], other, out)
    assert np.array_equal(out, block)
    if way is Way.RAW:
        assert [len(stream) for stream in streams] == [5000] * 4


def test_repetitions_are_looked_for_only_where_they_gain():
    planes, noise = Planes(1, 0), np.random.default_rng(0)
    plain = noise.integers(0, 256, BLOCK, np.uint8)
    assert planes.tried(plain, None) == [(Way.RAW, BLOCK)]
    frequent = noise.integers(0, 4, BLOCK, np.uint8)
    [(way, size)] = planes.tried(frequent, None)
    assert way is Way.LITERALS
    assert size == len(planes.encode(frequent, None)[0]) < 0.27 * BLOCK
    repeated = np.tile(noise.integers(0, 128, 64, np.uint8), BLOCK // 64)
    [(way, size)] = planes.tried(repeated, None)
    assert way is Way.MATCHES
    assert size < 0.01 * BLOCK < 0.5 * BLOCK < len(planes.encode(repeated, None)[0])


def test_a_library_that_cannot_leave_repetitions_alone_is_good_enough(monkeypatch):
    monkeypatch.setattr("milepost.encodings.planes._LITERAL_COMPRESSION", 9999)
    planes, block = Planes(4, 2), _weights(5000).view("<u4")
    assert np.array_equal(_undone(planes, block, None), block)
    assert sum(map(len, planes.encode(block, None))) < 0.86 * block.nbytes


def test_a_frame_of_another_length_is_refused():
    planes, block = Planes(1, 0), np.zeros(1000, "<u1")
    [frame] = planes.encode(block, None)
    for count in (999, 1001):
        with pytest.raises(ValueError, match=f"{count} bytes"):
            planes.decode([memoryview(frame)], None, np.empty(count, "<u1"))
    for wrong in (frame[:-1], frame + b"\0", b"\0" * len(frame)):
        with pytest.raises(ValueError):  # noqa: PT011  Zstandard's own words
            planes.decode([memoryview(wrong)], None, np.empty(1000, "<u1"))


def test_a_table_that_asks_for_too_much_is_refused():
    planes = Planes(2, 0)
    raw = _weights(BLOCK).view("<u2")  # two blocks
    streams = [s for block in blocks(raw.data.cast("B"), 2) for s in planes.encode(block, None)]
    coded = table(streams) + b"".join(streams)
    size = table_bytes(planes, raw.nbytes)
    assert size == 4 * len(streams)
    room = len(coded) - size
    rows = stream_lengths(memoryview(coded)[:size], planes, raw.nbytes, room)
    assert [length for row in rows for length in row] == [len(s) for s in streams]
    with pytest.raises(ValueError, match="longer than all"):
        stream_lengths(memoryview(coded)[:size], planes, raw.nbytes, room - 1)
    for number in range(len(streams)):
        wrong = np.frombuffer(coded[:size], "<u4").copy()
        wrong[number] = BLOCK + 1
        with pytest.raises(ValueError, match="longer than what it holds"):
            stream_lengths(wrong.data.cast("B"), planes, raw.nbytes, 1 << 40)
