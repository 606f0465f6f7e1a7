"""Snapshots: lazy arrays index like NumPy's, read what they must, and check what they read."""

from __future__ import annotations

import dataclasses
import math
import operator

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from milepost import digest, dtypes
from milepost.chunk import Chunk
from milepost.errors import DamagedError, LeafNotFoundError, StorageError
from milepost.lazy import LazyArray
from milepost.record import ArrayRecord, PlainRecord, chunk_boxes
from milepost.snapshot import Damage, Description, Snapshot, closing_on_error
from milepost.state import LeafSpec, ObjectInfo, is_plain
from milepost.storage.memory import MemorySource

GRID = np.arange(24, dtype=np.int32).reshape(4, 6)


class WatchedSource(MemorySource):
    """Bytes in memory that remember what was read of them, and whether they were closed."""

    def __init__(self, name, data):
        super().__init__(name, data)
        self.reads = []
        self.closed = False

    def read_into(self, offset, buffer):
        self.reads.append((offset, len(buffer)))
        return super().read_into(offset, buffer)

    def close(self):
        self.closed = True


def snapshot_of(leaves, target=1 << 20, *, checked=True, damage=None):
    """A snapshot of these leaves in one file, cut into chunks of `target` bytes.

    `damage` changes the bytes of the file once they are digested.
    """
    records, data = {}, bytearray()
    for name, leaf in leaves.items():
        if is_plain(leaf):
            records[name] = PlainRecord(leaf)
            continue
        stored = dtypes.to_stored(leaf)
        raw, chunks, start = dtypes.byte_view(stored), [], 0
        for offset, box in chunk_boxes(stored.shape, stored.dtype.itemsize, target):
            nbytes = math.prod(box) * stored.dtype.itemsize
            part = raw[start : start + nbytes]
            marks = (digest.digest(part), digest.checksum(part)) if checked else (None, None)
            chunks.append(Chunk(offset, box, *marks, 0, len(data), nbytes))
            data += part
            start += nbytes
        records[name] = ArrayRecord(dtypes.dtype_name(stored.dtype), stored.shape, tuple(chunks))
    if damage is not None:
        data = damage(data)
    source = WatchedSource("pack", bytes(data))
    return Snapshot("runs/x, step 7", records, [source], Description("test")), source


def lazy(array, target=1 << 20):
    return snapshot_of({"a": array}, target)[0]["a"]


def flip(place):
    def damage(data):
        data[place] ^= 1
        return data

    return damage


def outcome(function):
    """What a call gives, or the type of the error that it raises."""
    try:
        return function()
    except (IndexError, TypeError, ValueError) as error:
        return type(error)


# Leaves


def test_a_snapshot_is_a_mapping_of_plain_values_and_lazy_arrays():
    snapshot, _ = snapshot_of({"b": 3, "a": GRID, "c": None})
    assert list(snapshot) == ["b", "a", "c"]
    assert len(snapshot) == 3
    assert snapshot["b"] == 3
    assert snapshot["c"] is None
    assert isinstance(snapshot["a"], LazyArray)
    assert "a" in snapshot
    assert "d" not in snapshot


def test_names_dtypes_and_shapes_are_there_without_reading():
    snapshot, source = snapshot_of({"a": GRID, "b": 3})
    array = snapshot["a"]
    assert (array.dtype, array.shape, array.ndim) == (np.int32, (4, 6), 2)
    assert (array.size, array.nbytes, len(array)) == (24, 96, 4)
    assert snapshot.spec("a") == LeafSpec("int32", (4, 6))
    assert snapshot.spec("b") == LeafSpec("int", None)
    assert repr(array) == "<LazyArray a: int32[4, 6]>"
    assert source.reads == []


def test_a_snapshot_tells_its_name_and_the_number_of_its_leaves():
    assert repr(snapshot_of({"a": GRID, "b": 3})[0]) == "<Snapshot runs/x, step 7: 2 leaves>"


def test_the_size_of_a_snapshot_is_that_of_its_arrays():
    assert snapshot_of({"a": GRID, "b": "long text", "c": np.zeros(3)})[0].nbytes == 120


def test_a_snapshot_tells_its_facts():
    info = ObjectInfo("keras")
    description = Description("safetensors", {"note": "x"}, {"model": info})
    snapshot = Snapshot("x", {}, [], description)
    assert snapshot.metadata == {"note": "x"}
    assert snapshot.facts() == {"format": "safetensors", "metadata": {"note": "x"}, "bytes": 0}
    assert snapshot.description.objects == {"model": info}


def test_a_missing_leaf_is_a_key_error_that_names_the_nearest():
    snapshot, _ = snapshot_of({"model/kernel": 1, "model/bias": 2, "other": 3})
    with pytest.raises(LeafNotFoundError) as caught:
        snapshot["model/kernal"]
    assert str(caught.value).startswith(
        "runs/x, step 7 has no leaf 'model/kernal'; it has 'model/k"
    )


def test_a_name_that_has_leaves_below_it_is_answered_with_those():
    snapshot, _ = snapshot_of({"model/kernel": 1, "model/bias": 2, "modem": 3})
    with pytest.raises(LeafNotFoundError, match=r"it has 'model/kernel', 'model/bias'$"):
        snapshot.read("model")


def test_a_name_like_no_other_is_answered_with_their_number():
    with pytest.raises(LeafNotFoundError, match="it has 2 leaves of other names"):
        snapshot_of({"aaaa": 1, "bbbb": 2})[0].spec("zzzzzzz")


@pytest.mark.parametrize("asked", ["model", "model/", "model/layer"])
def test_no_more_than_three_names_are_shown_in_place_of_a_missing_one(asked):
    snapshot, _ = snapshot_of({f"model/layer{i}": i for i in range(9)})
    with pytest.raises(LeafNotFoundError, match=r"; it has '[^']*', '[^']*', '[^']*'$"):
        snapshot.read(asked)


def test_get_gives_a_default_for_a_missing_leaf():
    snapshot, _ = snapshot_of({"a": 1})
    assert snapshot.get("b", 5) == 5
    assert snapshot.get("a", 5) == 1


def test_leaving_a_snapshot_closes_its_files():
    snapshot, source = snapshot_of({"a": GRID})
    with snapshot as entered:
        assert entered is snapshot
        assert not source.closed
    assert source.closed


def test_files_are_closed_when_a_snapshot_over_them_fails():
    source = WatchedSource("x", b"")
    with pytest.raises(KeyError), closing_on_error([source]):
        raise KeyError
    assert source.closed


def test_files_stay_open_when_a_snapshot_over_them_succeeds():
    source = WatchedSource("x", b"")
    with closing_on_error([source]):
        pass
    assert not source.closed


# Whole arrays

ARRAYS = [
    GRID,
    np.array(2.5),
    np.zeros((0, 3), np.float32),
    np.array([True, False, True]),
    np.array([1 + 2j, np.nan]),
    np.array([1.5, -0.0, np.inf], ml_dtypes.bfloat16),
    np.array([1, -8, 7], ml_dtypes.int4),
    np.array(["2020-01-01", "NaT"], "datetime64[D]"),
    np.arange(3, dtype=np.complex128),
    np.arange(60, dtype=np.uint8).reshape(3, 4, 5),
]


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("target", [1, 7, 1 << 20])
def test_an_array_is_read_to_the_last_bit(array, target):
    found = snapshot_of({"a": array}, target)[0].read("a")
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()


def test_a_plain_value_is_read_as_it_is():
    assert snapshot_of({"a": "text"})[0].read("a") == "text"


def test_an_array_that_was_read_is_the_readers_own():
    snapshot, _ = snapshot_of({"a": GRID})
    first = snapshot.read("a")
    first[...] = 0
    np.testing.assert_array_equal(snapshot.read("a"), GRID)


def test_several_arrays_lie_in_one_file():
    leaves = {"a": GRID, "b": np.arange(3.0), "c": GRID.T}
    snapshot, _ = snapshot_of(leaves, target=16)
    for name, array in leaves.items():
        np.testing.assert_array_equal(snapshot[name], array, strict=True)


def test_numpy_converts_a_lazy_array_to_the_dtype_that_is_asked_for():
    np.testing.assert_array_equal(
        np.asarray(lazy(GRID), np.float64), GRID.astype(float), strict=True
    )


def test_a_lazy_array_cannot_be_had_without_a_copy():
    with pytest.raises(ValueError, match="without a copy"):
        np.array(lazy(GRID), copy=False)


@pytest.mark.parametrize(
    "function",
    [
        *(np.sum, np.mean, np.argmax, np.transpose, np.sqrt, operator.neg, list, abs),
        *(lambda a: a + 1, lambda a: 1 - a, lambda a: a @ GRID.T, lambda a: a == GRID),
        *(lambda a: a / a, lambda a: np.add.reduce(a, axis=1), lambda a: np.stack([a, a])),
        *(lambda a: np.maximum(a, 7), lambda a: a > 5, lambda a: np.isin(a, [1, 2])),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_arithmetic_and_numpys_functions_work_as_on_the_array(function):
    np.testing.assert_array_equal(function(lazy(GRID, 16)), function(GRID), strict=True)


def test_an_array_without_dimensions_has_no_length():
    with pytest.raises(TypeError, match="no length"):
        len(lazy(np.array(3)))


# Parts of arrays


@st.composite
def arrays_and_indices(draw):
    shape = draw(st.lists(st.integers(0, 5), max_size=3).map(tuple))
    array = np.arange(math.prod(shape), dtype=np.int16).reshape(shape)
    basic = npst.basic_indices(shape, allow_newaxis=True)
    # Also out of bounds, too many, and NumPy's own integers.
    wild = st.lists(
        st.integers(-7, 7)
        | st.integers(-7, 7).map(np.int64)
        | st.builds(slice, *[st.none() | st.integers(-7, 7)] * 3),
        max_size=4,
    ).map(tuple)
    return array, draw(basic | wild), draw(st.integers(1, 20))


@given(case=arrays_and_indices())
@example(case=(GRID, (slice(None, None, -1), slice(4, 0, -2)), 16))
@example(case=(GRID, (-1, slice(-2, None)), 16))
@example(case=(GRID, (slice(3, 1), 0), 16))
@example(case=(GRID, (slice(None, None, 0),), 16))
@example(case=(GRID, (0, 0, 0), 16))
@settings(deadline=None, max_examples=300)
def test_integers_and_slices_index_as_numpy_does(case):
    array, index, target = case
    expected, found = outcome(lambda: array[index]), outcome(lambda: lazy(array, target)[index])
    assert type(found) is type(expected)
    if isinstance(expected, type):
        assert found is expected
    else:
        np.testing.assert_array_equal(found, expected, strict=True)


@given(data=st.data(), target=st.integers(1, 20))
@settings(deadline=None)
def test_arrays_index_as_numpy_does(data, target):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple))
    array = np.arange(math.prod(shape), dtype=np.int16).reshape(shape)
    index = data.draw(
        npst.integer_array_indices(shape) | npst.arrays(bool, shape) | npst.arrays(bool, shape[:1])
    )
    np.testing.assert_array_equal(lazy(array, target)[index], array[index], strict=True)


@pytest.mark.parametrize(
    "index",
    [
        *(..., None, (), (..., 0), (0, ...), (None, 1), [0, 2], ([0, 2], slice(1, 3)), ([3, 1], 2)),
        *(np.array([[0, 1], [2, 3]]), GRID > 5, np.True_, (slice(None), [True] * 6), np.array(1)),
        *(np.uint8(1), np.int64(-1), (np.int8(1), np.uint16(2)), -1, (-1, -1), slice(-2, None)),
        *(slice(np.int64(0), np.int64(3), np.int64(2)), slice(None, None, -1), slice(2**70)),
    ],
)
def test_every_other_kind_of_index_works_as_on_the_array(index):
    found, expected = lazy(GRID, 16)[index], GRID[index]
    assert type(found) is type(expected)
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize("index", [4, -5, (0, 6), (0, 0, 0), "a", 1.5, slice(0.5, 2), 2**70, [9]])
def test_an_index_that_numpy_refuses_is_refused_with_the_same_error(index):
    expected = outcome(lambda: GRID[index])
    assert isinstance(expected, type)
    with pytest.raises(expected):
        lazy(GRID, 16)[index]


def test_an_index_out_of_bounds_names_the_axis_and_its_size():
    with pytest.raises(IndexError, match="index -7 is out of bounds for axis 1 with size 6"):
        lazy(GRID)[0, -7]


@pytest.mark.parametrize(
    ("index", "reads"),
    [
        *((0, [(0, 24)]), (slice(1, 3), [(24, 24), (48, 24)]), ((3, 5), [(72, 24)])),
        *((slice(None, None, -3), [(0, 24), (24, 24), (48, 24), (72, 24)]), (slice(2, 2), [])),
        *(((slice(0, 1), slice(6, 9)), []), (-1, [(72, 24)])),
    ],
)
def test_only_the_chunks_that_an_index_touches_are_read(index, reads):
    snapshot, source = snapshot_of({"a": GRID}, target=24)
    snapshot["a"][index]
    assert bytes_of(source.reads) == bytes_of(reads)


def bytes_of(reads: list[tuple[int, int]]) -> list[int]:
    """The position of each byte that was read: neighbours may be read as one."""
    return [position for start, size in reads for position in range(start, start + size)]


def test_chunks_inside_of_rows_are_chosen_too():
    snapshot, source = snapshot_of({"a": GRID}, target=12)
    np.testing.assert_array_equal(snapshot["a"][1:3, 3:4], GRID[1:3, 3:4], strict=True)
    assert source.reads == [(36, 12), (60, 12)]


def test_chunks_may_come_in_any_order():
    snapshot, _ = snapshot_of({"a": GRID}, target=12)
    record = snapshot.record("a")
    shuffled = dataclasses.replace(record, chunks=record.chunks[::-1])
    whole = ((0, 4), (0, 6))
    np.testing.assert_array_equal(snapshot.read_box("a", shuffled, whole), GRID, strict=True)


def test_chunks_may_be_boxes_that_are_not_contiguous_in_the_array():
    # Values that no other test uses: memory given back by one may be handed out here.
    array = np.arange(24, dtype=np.int32).reshape(4, 6) * 7919
    chunks = (
        Chunk((0, 0), (4, 2), None, None, 0, 0, 32),
        Chunk((0, 2), (4, 4), None, None, 1, 0, 64),
    )
    files = [
        MemorySource("0", array[:, :2].tobytes()),
        MemorySource("1", array[:, 2:].tobytes()),
    ]
    record = ArrayRecord("int32", (4, 6), chunks)
    snapshot = Snapshot("x", {"a": record}, files, Description("test"))
    np.testing.assert_array_equal(snapshot["a"][1:3, 1:4], array[1:3, 1:4], strict=True)
    np.testing.assert_array_equal(snapshot.read("a"), array, strict=True)


# Damage


def test_every_flipped_bit_of_the_data_is_noticed_when_it_is_read():
    for bit in range(GRID.nbytes * 8):

        def damage(data, bit=bit):
            data[bit // 8] ^= 1 << bit % 8
            return data

        snapshot, _ = snapshot_of({"a": GRID}, 24, damage=damage)
        with pytest.raises(DamagedError):
            snapshot.read("a")


def test_damage_names_the_file_the_leaf_and_the_bytes():
    snapshot, _ = snapshot_of({"b": GRID, "a": GRID}, 24, damage=flip(96 + 30))
    with pytest.raises(DamagedError) as caught:
        np.asarray(snapshot["a"])
    row = bytearray(GRID[1].tobytes())
    expected = digest.checksum(row)
    row[6] ^= 1
    assert str(caught.value) == (
        "pack, leaf 'a': bytes 120 to 144 are damaged: "
        f"expected {expected}, found {digest.checksum(row)}"
    )


def test_a_part_is_checked_though_the_damage_lies_beside_it_in_its_chunk():
    snapshot, _ = snapshot_of({"a": GRID}, 24, damage=flip(0))
    with pytest.raises(DamagedError):
        snapshot["a"][0, 5]


def test_damage_in_one_chunk_does_not_keep_the_others_from_being_read():
    snapshot, _ = snapshot_of({"a": GRID}, 24, damage=flip(0))
    np.testing.assert_array_equal(snapshot["a"][1:], GRID[1:], strict=True)


def test_a_file_that_is_cut_short_is_damage():
    snapshot, _ = snapshot_of({"a": GRID}, damage=lambda data: data[:-1])
    with pytest.raises(DamagedError, match=r"pack is cut short: expected 96 .* found 95"):
        snapshot.read("a")


def test_a_file_of_others_without_checksums_is_read_unchecked_but_not_short():
    snapshot, _ = snapshot_of({"a": GRID}, checked=False, damage=flip(0))
    assert snapshot.read("a")[0, 0] == 1
    snapshot, _ = snapshot_of({"a": GRID}, checked=False, damage=lambda data: data[:-1])
    with pytest.raises(DamagedError, match="cut short"):
        snapshot.read("a")


def test_a_sound_snapshot_has_no_damage():
    assert list(snapshot_of({"a": GRID, "b": 1, "c": np.zeros(0)}, 24)[0].damage()) == []


def test_damage_is_told_for_every_damaged_chunk_and_no_other():
    def damage(data):
        return flip(25)(flip(95)(data))

    snapshot, _ = snapshot_of({"a": GRID, "b": GRID + 1}, 24, damage=damage)
    found = list(snapshot.damage())
    assert [(item.file, item.leaf) for item in found] == [("pack", "a"), ("pack", "a")]
    assert [item.problem.partition(" are damaged: expected xxh3:")[0] for item in found] == [
        "bytes 24 to 48",
        "bytes 72 to 96",
    ]


def test_damage_that_the_checksum_does_not_show_is_found_by_the_digest():
    snapshot, _ = snapshot_of({"a": GRID})
    record = snapshot.record("a")
    other = digest.digest(b"other")
    chunk = dataclasses.replace(record.chunks[0], digest=other)
    records = {"a": dataclasses.replace(record, chunks=(chunk,))}
    forged = Snapshot("x", records, [MemorySource("pack", GRID.tobytes())], Description("test"))
    assert [str(item) for item in forged.damage()] == [
        f"pack, leaf 'a': bytes 0 to 96 are damaged: expected {other}"
    ]


def test_damage_goes_on_after_a_leaf_that_cannot_be_read():
    class Failing(MemorySource):
        def read_into(self, offset, buffer):
            if offset == 24:
                raise StorageError("input/output error")
            return super().read_into(offset, buffer)

    snapshot, _ = snapshot_of({"a": GRID}, 24)
    files = [Failing("pack", bytes(GRID.nbytes - 1))]
    found = list(Snapshot("x", {"a": snapshot.record("a")}, files, Description("test")).damage())
    assert len(found) == 4
    assert found[1] == Damage("pack", "a", "input/output error")
    assert found[3].problem.startswith("pack is cut short")


def test_damage_of_leaves_that_share_their_bytes_is_told_for_each():
    snapshot, _ = snapshot_of({"a": GRID}, damage=flip(0))
    record = snapshot.record("a")
    data = GRID.tobytes()
    files = [MemorySource("pack", bytes([data[0] ^ 1]) + data[1:])]
    both = Snapshot("x", {"a": record, "b": record}, files, Description("test"))
    assert [item.leaf for item in both.damage()] == ["a", "b"]


def test_sound_bytes_that_leaves_share_are_read_once():
    snapshot, source = snapshot_of({"a": GRID})
    record = snapshot.record("a")
    both = Snapshot("x", {"a": record, "b": record}, [source], Description("test"))
    assert list(both.damage()) == []
    assert source.reads == [(0, 96)]


def test_a_file_of_others_has_nothing_to_be_checked_by():
    snapshot, source = snapshot_of({"a": GRID}, checked=False, damage=flip(0))
    assert list(snapshot.damage()) == []
    assert source.reads == []


def test_damage_of_a_whole_file_names_no_leaf():
    assert str(Damage("x.json", None, "is missing")) == "x.json: is missing"


@pytest.mark.parametrize("index", [True, False, (True, 0), (slice(None), True), np.True_])
def test_a_boolean_is_a_mask_as_it_is_to_numpy(index):
    array = np.arange(24).reshape(4, 6)
    found = lazy(array)[index]
    assert found.shape == array[index].shape
    assert found.tolist() == array[index].tolist()


def test_a_lazy_array_is_not_written_to():
    array = lazy(np.arange(4.0))
    with pytest.raises(TypeError, match="read-only"):
        array += 1
    with pytest.raises(TypeError, match="read-only"):
        np.add(np.ones(4), 1, out=array)


def test_a_lazy_array_can_be_a_mask_of_a_function():
    mask = lazy(np.array([True, False, True]))
    assert np.add([1, 2, 3], 1, out=np.zeros(3, int), where=mask).tolist() == [2, 0, 4]


@pytest.mark.parametrize("array", [np.array(0), np.array(5), np.array([0]), np.array([7])])
def test_the_truth_of_one_number_is_numpys(array):
    assert bool(lazy(array)) is bool(array)


def test_the_truth_of_several_is_refused():
    with pytest.raises(ValueError, match="ambiguous"):
        bool(lazy(np.arange(3)))


@pytest.mark.parametrize("name", [5, None, ("a",)])
def test_a_name_that_is_no_text_is_not_there(name):
    snapshot, _ = snapshot_of({"a": 1})
    assert snapshot.get(name) is None
    with pytest.raises(LeafNotFoundError):
        snapshot[name]
