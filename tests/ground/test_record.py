"""Records: chunks that cover an array, values and arrays to JSON and back."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from milepost import digest
from milepost.chunk import PLANES, Chunk, Encoding
from milepost.errors import DamagedError, VersionError
from milepost.record import (
    CHUNK_BYTES,
    ArrayRecord,
    PlainRecord,
    chunk_boxes,
    decode,
    decode_plain,
    encode,
    encode_all,
    encode_plain,
)
from milepost.state import LeafSpec

DIGEST = digest.digest(b"")
CHECKSUM = digest.checksum(b"")

# The only chunk of an array without dimensions.
SCALAR_CHUNK = {"digest": DIGEST, "checksum": CHECKSUM, "file": 0, "position": 0}

shapes = st.lists(st.integers(0, 6), max_size=4).map(tuple)
cuts = st.tuples(shapes, st.integers(1, 16), st.integers(1, 200))
surrogates = st.text(
    st.characters(codec="utf-8") | st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF)
)
plain_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**3000), 2**3000),
    st.floats(),
    st.text(),
    surrogates,
    st.binary(),
)


def through_json(value):
    return json.loads(json.dumps(value, allow_nan=False))


def flat_indices(offset, shape, whole):
    """The positions, in C order, of the elements of a box inside an array of shape `whole`."""
    axes = [range(o, o + n) for o, n in zip(offset, shape, strict=True)]
    strides = [math.prod(whole[axis + 1 :]) for axis in range(len(whole))]
    return [
        sum(i * stride for i, stride in zip(index, strides, strict=True))
        for index in itertools.product(*axes)
    ]


# How arrays are cut


@given(cut=cuts)
@example(cut=((3, 4), 8, 7))
@example(cut=((2, 3, 4), 4, 16))
@settings(deadline=None)
def test_chunks_follow_one_another_in_c_order_and_cover_the_array_once(cut):
    shape, itemsize, target = cut
    boxes = chunk_boxes(shape, itemsize, target)
    covered = [i for offset, box in boxes for i in flat_indices(offset, box, shape)]
    assert covered == list(range(math.prod(shape)))


@given(cut=cuts)
@settings(deadline=None)
def test_a_chunk_is_at_most_the_target_or_a_single_element(cut):
    shape, itemsize, target = cut
    for _, box in chunk_boxes(shape, itemsize, target):
        assert math.prod(box) * itemsize <= target or math.prod(box) == 1


@given(shape=shapes, itemsize=st.integers(1, 16))
@settings(deadline=None)
def test_an_array_no_larger_than_the_target_is_one_chunk(shape, itemsize):
    assume(0 not in shape)
    boxes = list(chunk_boxes(shape, itemsize, math.prod(shape) * itemsize))
    assert boxes == [((0,) * len(shape), shape)]


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 4)])
def test_an_array_without_elements_has_no_chunks(shape):
    assert list(chunk_boxes(shape, 4, 100)) == []


def test_an_array_without_dimensions_is_one_chunk_even_when_the_target_is_smaller():
    assert list(chunk_boxes((), 16, 1)) == [((), ())]


def test_an_array_is_cut_along_its_first_axis():
    assert list(chunk_boxes((5, 3), 4, 24)) == [
        ((0, 0), (2, 3)),
        ((2, 0), (2, 3)),
        ((4, 0), (1, 3)),
    ]


def test_an_array_whose_rows_are_too_large_is_cut_along_the_next_axis():
    assert list(chunk_boxes((2, 3), 4, 8)) == [
        ((0, 0), (1, 2)),
        ((0, 2), (1, 1)),
        ((1, 0), (1, 2)),
        ((1, 2), (1, 1)),
    ]


def test_an_element_larger_than_the_target_is_a_chunk():
    assert list(chunk_boxes((2,), 16, 10)) == [((0,), (1,)), ((1,), (1,))]


def test_a_large_array_is_cut_into_chunks_of_the_default_size():
    sizes = [math.prod(shape) * 4 for _, shape in chunk_boxes((10_000, 1024), 4)]
    assert sizes == [CHUNK_BYTES, CHUNK_BYTES, 10_000 * 4096 - 2 * CHUNK_BYTES]


# Plain values


@given(value=plain_values)
@example(value=-0.0)
@example(value=5e-324)
@example(value=1.7976931348623157e308)
@example(value="a\ud800b")
@example(value="\ud800")
@example(value="\udfff")
@example(value="\udfff\ud800")
@example(value="\x00\ufeff\U0010ffff")
@example(value=10**3990)
@settings(deadline=None)
def test_a_plain_value_comes_back_as_it_was(value):
    found = decode_plain(through_json(encode_plain(value)))
    # By type and text: NaN is not equal to itself, and -0.0 is to 0.0.
    assert (type(found), repr(found)) == (type(value), repr(value))


@given(value=plain_values)
@settings(deadline=None)
def test_an_encoded_plain_value_can_be_written_as_utf_8(value):
    assert json.dumps(encode_plain(value), ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        *((None, None), (True, True), (0, 0), (0.5, 0.5), ("é", "é"), ("", "")),
        *((b"\x00\xff", {"bytes": "AP8="}), (b"", {"bytes": ""})),
        *(
            (math.nan, {"float": "nan"}),
            (math.inf, {"float": "inf"}),
            (-math.inf, {"float": "-inf"}),
        ),
        *((2**53, 2**53), (-(2**53), -(2**53))),
        *((2**53 + 1, {"int": "0x20000000000001"}), (-(2**53) - 1, {"int": "-0x20000000000001"})),
        ("\ud800", {"str": "7aCA"}),
    ],
)
def test_a_plain_value_is_written_as_the_format_says(value, encoded):
    assert repr(encode_plain(value)) == repr(encoded)


@pytest.mark.parametrize("base", [int, float, str, bytes])
def test_a_subclass_of_a_plain_type_is_written_as_its_base(base):
    value = type("Special", (base,), {"__repr__": lambda _: "special"})(base())
    assert type(decode_plain(through_json(encode_plain(value)))) is base


@pytest.mark.parametrize(
    "encoded",
    [
        *([], [1], {}, {"bytes": "AA==", "int": "1"}, {"list": []}, {"value": 1}),
        *({"bytes": 5}, {"bytes": "A"}, {"bytes": "AA=\n="}, {"bytes": "é"}, {"bytes": None}),
        *(
            {"int": 5},
            {"int": ""},
            {"int": "1.5"},
            {"int": "16"},
            {"int": "0x"},
            {"int": "0x1G"},
            {"int": [1]},
        ),
        *({"float": 0.5}, {"float": "0.5"}, {"float": "NaN"}, {"float": "infinity"}, {"float": []}),
        *({"str": "/w=="}, {"str": "*"}, {"str": 5}),
        *({"number": "1"}, {"number": "nan"}, {"text": "AAA="}, {"": ""}),
    ],
)
def test_what_is_no_plain_value_is_damage(encoded):
    with pytest.raises(DamagedError, match="expected a plain value"):
        decode_plain(encoded)


def test_damage_quotes_no_more_than_a_line_of_what_was_found():
    with pytest.raises(DamagedError) as caught:
        decode_plain({"int": "9" * 5000})
    assert len(str(caught.value)) < 150


# Records


def array_record(dtype="<f4", shape=(4, 6), target=1 << 20, start=0):
    """A record whose chunks lie one after another, and the size of their file."""
    itemsize, chunks = np.dtype(dtype).itemsize, []
    for offset, box in chunk_boxes(shape, itemsize, target):
        nbytes = math.prod(box) * itemsize
        chunks.append(Chunk(offset, box, DIGEST, CHECKSUM, 0, start, nbytes))
        start += nbytes
    return ArrayRecord(np.dtype(dtype).name, shape, tuple(chunks)), start


@given(cut=st.tuples(shapes, st.just(4), st.integers(1, 200)), start=st.integers(0, 100))
@settings(deadline=None)
def test_an_array_record_comes_back_as_it_was(cut, start):
    shape, _, target = cut
    record, end = array_record(shape=shape, target=target, start=start)
    assert decode(through_json(encode(record)), "a", [end]) == record


@given(cut=st.tuples(shapes, st.just(4), st.integers(1, 200)), start=st.integers(0, 100))
@settings(deadline=None)
def test_an_array_record_without_places_comes_back_where_it_starts(cut, start):
    shape, _, target = cut
    record, end = array_record(shape=shape, target=target, start=start)
    encoded = through_json(encode(record, places=False))
    assert "position" not in json.dumps(encoded)
    assert decode(encoded, "a", [end], start=start) == record


@given(value=plain_values)
@settings(deadline=None)
def test_a_plain_record_comes_back_as_it_was(value):
    found = decode(through_json(encode(PlainRecord(value))), "a", [])
    assert isinstance(found, PlainRecord)
    assert repr(found.value) == repr(value)


def test_the_only_chunk_of_an_array_needs_no_box():
    record, _ = array_record(shape=(2, 2))
    assert through_json(encode(record)) == {
        "dtype": "float32",
        "shape": [2, 2],
        "chunks": [{"digest": DIGEST, "checksum": CHECKSUM, "file": 0, "position": 0}],
    }


def test_one_of_several_chunks_tells_its_box():
    record, _ = array_record(shape=(2, 2), target=8)
    assert through_json(encode(record))["chunks"][1] == {
        "offset": [1, 0],
        "shape": [1, 2],
        "digest": DIGEST,
        "checksum": CHECKSUM,
        "file": 0,
        "position": 8,
    }


def test_a_record_knows_its_spec_and_size():
    record, _ = array_record("<f8", (4, 6))
    assert record.spec == LeafSpec("float64", (4, 6))
    assert record.nbytes == 192
    assert PlainRecord(None).spec == LeafSpec("None", None)


def changed(record, **changes):
    """The JSON of a record with some of its first chunk's entries changed, or removed."""
    encoded = through_json(encode(record))
    chunk = {**encoded["chunks"][0], **changes}
    encoded["chunks"][0] = {key: value for key, value in chunk.items() if value is not Ellipsis}
    return encoded


def test_a_file_that_is_exactly_long_enough_is_accepted_and_one_byte_less_refused():
    record, end = array_record()
    encoded = through_json(encode(record))
    assert decode(encoded, "a", [end]) == record
    with pytest.raises(DamagedError, match=r"leaf 'a' would end at byte 96, its file has 95"):
        decode(encoded, "a", [end - 1])


@pytest.mark.parametrize("file", [1, 7])
def test_a_chunk_in_a_file_that_is_not_there_is_damage(file):
    record, end = array_record()
    with pytest.raises(DamagedError, match=rf"lies in file {file} of 1"):
        decode(changed(record, file=file), "a", [end])


@pytest.mark.parametrize("changes", [{"position": -1}, {"position": 10**4299}, {"file": -1}])
def test_a_chunk_that_lies_nowhere_is_damage(changes):
    record, end = array_record()
    with pytest.raises(DamagedError, match="lies nowhere"):
        decode(changed(record, **changes), "a", [end])


@pytest.mark.parametrize(
    "value", [10**4100, -(10**5000), "\ud83d\ude00", "\udc00"], ids=["4100", "5000", "pair", "low"]
)
def test_huge_numbers_and_surrogates_come_back_as_they_were(value):
    found = decode_plain(through_json(encode_plain(value)))
    assert found == value


def test_a_shape_whose_zero_hides_an_overflow_is_damage():
    encoded = {"dtype": "float32", "shape": [2**62, 8, 0], "chunks": []}
    with pytest.raises(DamagedError, match="is no shape"):
        decode(encoded, "a", [])


@pytest.mark.parametrize("columns", [1, 4])
def test_many_chunks_are_compared_quickly(columns):
    """Cut along either axis: a thousand shards a leaf is no rare thing."""
    shape = (1, 4000) if columns == 1 else (4000, columns)
    axis = shape.index(4000)
    boxes = [tuple(i if a == axis else 0 for a in range(2)) for i in range(4000)]
    size = tuple(1 if a == axis else n for a, n in enumerate(shape))
    chunks = tuple(
        Chunk(box, size, DIGEST, CHECKSUM, 0, i * columns, columns) for i, box in enumerate(boxes)
    )
    record = ArrayRecord("uint8", shape, chunks)
    assert decode(through_json(encode(record)), "a", [4000 * columns]) == record


def test_a_chunk_may_lie_in_any_of_the_files():
    record, end = array_record()
    assert decode(changed(record, file=1), "a", [0, end]).chunks[0].file == 1


@pytest.mark.parametrize(
    "changes",
    [
        *({"file": ...}, {"position": ...}, {"digest": ...}, {"checksum": ...}),
        *({"file": "0"}, {"file": 0.0}, {"file": False}, {"file": None}),
        *({"position": "0"}, {"position": 0.0}, {"position": True}, {"position": None}),
        *({"digest": None}, {"digest": 5}, {"digest": "blake3"}, {"digest": DIGEST.upper()}),
        *({"checksum": None}, {"checksum": ["xxh3:00"]}, {"checksum": "xxh3:0G"}),
        *({"shape": None}, {"shape": "46"}, {"shape": [4.0, 6]}, {"shape": [True, 6]}),
        *({"shape": [-4, -6]}, {"shape": [2**63, 6]}, {"shape": {}}, {"shape": [4, 6, 1]}),
        *({"offset": None}, {"offset": [0]}, {"offset": [0, 0, 0]}, {"offset": [-1, 0]}),
        *({"offset": [1, 0]}, {"offset": [0, 1]}, {"offset": ["0", 0]}, {"shape": [4, 7]}),
        *({"shape": [3, 6]}, {"shape": []}, {"shape": [0, 6]}),
    ],
)
def test_a_chunk_that_is_not_as_the_format_says_is_damage(changes):
    record, end = array_record()
    with pytest.raises(DamagedError, match="leaf 'a'"):
        decode(changed(record, **changes), "a", [end + 1000])


@pytest.mark.parametrize(
    "encoded",
    [
        *(None, 5, "value", [], ["value"], {}, {"dtype": "float32"}, {"value": []}),
        {"dtype": "float32", "shape": [0]},
        *({"dtype": None, "shape": [0], "chunks": []}, {"dtype": [], "shape": [0], "chunks": []}),
        *(
            {"dtype": "int8", "shape": s, "chunks": []}
            for s in (None, 0, "0", [0.0], [-1], {}, [[0]])
        ),
        *(
            {"dtype": "int8", "shape": [0], "chunks": c}
            for c in (None, 5, "ab", [5], ["ab"], [None])
        ),
        {"dtype": "int8", "shape": [0] * 65, "chunks": []},
        {"dtype": "int8", "shape": [2**63, 0], "chunks": []},
        *({"dtype": "int8", "shape": s, "chunks": [SCALAR_CHUNK]} for s in ({}, "", None, False)),
        {"dtype": "int8", "shape": [1], "chunks": []},
        {"dtype": "int8", "shape": [], "chunks": []},
    ],
)
def test_what_is_no_record_is_damage(encoded):
    with pytest.raises(DamagedError):
        decode(encoded, "a", [1000])


def test_an_array_without_dimensions_has_one_chunk_that_needs_no_box():
    encoded = {"dtype": "int8", "shape": [], "chunks": [SCALAR_CHUNK]}
    assert decode(encoded, "a", [1]).chunks == (Chunk((), (), DIGEST, CHECKSUM, 0, 0, 1),)


def test_sixty_four_dimensions_are_accepted():
    encoded = {"dtype": "int8", "shape": [0] * 64, "chunks": []}
    assert decode(encoded, "a", []).shape == (0,) * 64


@pytest.mark.parametrize("dtype", ["float7", "object", "", "<f4"])
def test_an_unknown_dtype_asks_for_a_newer_version(dtype):
    record, end = array_record()
    with pytest.raises(VersionError, match="leaf 'a' has the dtype"):
        decode({**through_json(encode(record)), "dtype": dtype}, "a", [end])


@pytest.mark.parametrize("field", ["digest", "checksum"])
def test_an_unknown_algorithm_asks_for_a_newer_version(field):
    record, end = array_record()
    with pytest.raises(VersionError, match="leaf 'a' is checked by 'sha9:00'"):
        decode(changed(record, **{field: "sha9:00"}), "a", [end])


def test_a_chunk_that_is_missing_is_damage():
    record, end = array_record(target=24)
    encoded = through_json(encode(record))
    del encoded["chunks"][1]
    with pytest.raises(DamagedError, match="do not cover its shape"):
        decode(encoded, "a", [end])


def test_a_chunk_that_is_there_twice_is_damage():
    record, end = array_record(target=24)
    encoded = through_json(encode(record))
    encoded["chunks"].append(encoded["chunks"][0])
    with pytest.raises(DamagedError, match="do not cover its shape"):
        decode(encoded, "a", [end])


def test_a_chunk_that_lies_over_another_is_damage_though_the_sizes_add_up():
    record, end = array_record(target=24)
    encoded = through_json(encode(record))
    encoded["chunks"][2]["offset"] = encoded["chunks"][1]["offset"]
    with pytest.raises(DamagedError, match="do not cover its shape"):
        decode(encoded, "a", [end])


def test_an_array_without_dimensions_cannot_have_two_chunks():
    record, end = array_record(shape=())
    encoded = through_json(encode(record))
    encoded["chunks"] *= 2
    with pytest.raises(DamagedError, match="do not cover its shape"):
        decode(encoded, "a", [end])


def test_chunks_may_tile_an_array_in_any_pattern():
    boxes = [([0, 2], [2, 1]), ([1, 0], [1, 2]), ([0, 0], [1, 2])]
    chunks = [{**SCALAR_CHUNK, "offset": offset, "shape": shape} for offset, shape in boxes]
    encoded = {"dtype": "int8", "shape": [2, 3], "chunks": chunks}
    assert len(decode(encoded, "a", [2]).chunks) == 3


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    target=st.integers(1, 8),
    data=st.data(),
)
@settings(deadline=None)
def test_chunks_are_accepted_exactly_if_each_element_lies_in_one(shape, target, data):
    record, end = array_record("u1", shape, target)
    encoded = through_json(encode(record))
    moved = data.draw(st.sampled_from(encoded["chunks"]))
    moved.setdefault("shape", list(shape))
    moved["offset"] = data.draw(
        st.tuples(
            *(st.integers(0, size - n) for size, n in zip(shape, moved["shape"], strict=True))
        )
    )
    moved["offset"] = list(moved["offset"])
    encoded["chunks"] = data.draw(st.permutations(encoded["chunks"]))
    counts = np.zeros(shape, int)
    for chunk in encoded["chunks"]:
        offset, box = chunk.get("offset", [0] * len(shape)), chunk.get("shape", shape)
        counts[tuple(slice(o, o + n) for o, n in zip(offset, box, strict=True))] += 1
    if (counts == 1).all():
        assert decode(encoded, "a", [end]).shape == shape
    else:
        with pytest.raises(DamagedError, match="do not cover its shape"):
            decode(encoded, "a", [end])


def chunk(offset, shape, encoding=None):
    return Chunk(offset, shape, DIGEST, CHECKSUM, 3, 4096, math.prod(shape), encoding)


_PLANES = Encoding(PLANES, 9, CHECKSUM, 4, 2, chunk((0,), (4,)))


@pytest.mark.parametrize("name", ["a/b", 'with "quotes" and \\', "größe", "\x00\n\x7f", "😀", ""])
@pytest.mark.parametrize(
    "kept",
    [
        PlainRecord(1.5),
        PlainRecord("text"),
        ArrayRecord("float32", (3, 2), (chunk((0, 0), (3, 2)),)),
        ArrayRecord("int8", (), (chunk((), ()),)),
        ArrayRecord("int8", (0, 3), ()),
        ArrayRecord("float32", (4,), (chunk((0,), (2,)), chunk((2,), (2,)))),
        ArrayRecord("float32", (4,), (chunk((0,), (4,), _PLANES),)),
    ],
    ids=lambda kept: type(kept).__name__,
)
def test_all_together_are_the_same_text_as_each(name, kept):
    records = {"first": PlainRecord(None), name: kept, "last": kept}
    whole = {key: encode(item) for key, item in records.items()}
    text = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
    assert encode_all(records) == text
