"""The safetensors container: what we write everybody reads, what is not right is refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import dtypes
from milepost.container import (
    MAX_HEADER_BYTES,
    TensorEntry,
    build_header,
    read_header,
)
from milepost.errors import DamagedError, UsageError
from milepost.storage.memory import MemorySource

ITEMSIZES = {code: dtypes.numpy_dtype(name).itemsize for code, name in dtypes.CODE_NAMES.items()}

tensors = st.lists(
    st.tuples(
        st.text(max_size=8).filter(lambda name: name != "__metadata__"),
        st.sampled_from(sorted(ITEMSIZES)),
        st.lists(st.integers(0, 4), max_size=4).map(tuple),
    ),
    unique_by=lambda tensor: tensor[0],
    max_size=5,
).map(lambda items: [(n, c, s, int(np.prod(s)) * ITEMSIZES[c]) for n, c, s in items])
metadata = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3)


def bytes_of(text, data=b""):
    """A file with this header, as text or as what JSON makes of it."""
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return len(text).to_bytes(8, "little") + text + data


def file_of(text, data=b""):
    return MemorySource("x.safetensors", bytes_of(text, data))


def entry(dtype="U8", shape=(4,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def refuse(text, data=b"", match=""):
    with pytest.raises(
        DamagedError, match=r"x\.safetensors is no valid safetensors file.*" + match
    ):
        read_header(file_of(text, data))


class Pretender:
    """A file that claims a size and has only its first bytes."""

    name = "x.safetensors"

    def __init__(self, size, start):
        self.size = size
        self.start = start

    def read_into(self, offset, buffer):
        assert offset + len(buffer) <= len(self.start), "more was read than had to be"
        buffer[:] = self.start[offset : offset + len(buffer)]
        return len(buffer)

    def close(self):
        pass


# What we write


@given(tensors=tensors, metadata=metadata)
@settings(deadline=None)
def test_a_header_reads_back_as_it_was_built(tensors, metadata):
    header, length = build_header(tensors, metadata)
    found = read_header(MemorySource("x", header + bytes(length)))
    assert found.metadata == metadata
    assert found.raw == header
    assert {name: (e.code, e.shape, e.nbytes) for name, e in found.tensors.items()} == {
        name: (code, shape, nbytes) for name, code, shape, nbytes in tensors
    }


@given(tensors=tensors, metadata=metadata)
@settings(deadline=None)
def test_the_tensors_that_are_built_follow_one_another_to_the_end_of_the_file(tensors, metadata):
    header, length = build_header(tensors, metadata)
    found = read_header(MemorySource("x", header + bytes(length))).tensors
    position = len(header)
    for name, _, _, nbytes in tensors:
        assert found[name].offset == position
        position += nbytes
    assert position == len(header) + length


@given(tensors=tensors, metadata=metadata)
@settings(deadline=None)
def test_data_begins_at_the_beginning_of_a_cache_line(tensors, metadata):
    header, _ = build_header(tensors, metadata)
    assert len(header) % 64 == 0
    assert int.from_bytes(header[:8], "little") == len(header) - 8


def test_a_built_header_is_the_bytes_that_the_format_describes():
    header, length = build_header([("é", "F32", (2, 1), 8), ("b", "U8", (), 1)], {"k": "v"})
    text = (
        '{"__metadata__":{"k":"v"},'
        '"é":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},'
        '"b":{"dtype":"U8","shape":[],"data_offsets":[8,9]}}'
    ).encode()
    assert header[8:].rstrip(b" ") == text
    assert length == 9


def test_without_metadata_the_key_for_it_is_left_out():
    header, _ = build_header([], {})
    assert header[8:].rstrip(b" ") == b"{}"


WRITTEN = {
    "layer/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "é": np.array([True, False]),
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float16),
    "deep/er[0:1]": np.arange(3, dtype=np.uint16),
}


def test_safetensors_opens_a_file_with_a_header_of_ours(tmp_path):
    entries = [
        (name, *dtypes.container_type(array.dtype.name, array.shape), array.nbytes)
        for name, array in WRITTEN.items()
    ]
    header, _ = build_header(entries, {"milepost": '{"a":"é"}'})
    path = tmp_path / "x.safetensors"
    path.write_bytes(header + b"".join(array.tobytes() for array in WRITTEN.values()))
    with safetensors.safe_open(path, "numpy") as opened:
        assert opened.metadata() == {"milepost": '{"a":"é"}'}
        assert set(opened.keys()) == set(WRITTEN)
        for name, array in WRITTEN.items():
            np.testing.assert_array_equal(opened.get_tensor(name), array, strict=True)


@pytest.mark.parametrize("code", sorted(dtypes.SAFETENSORS_CODES.values()))
def test_safetensors_knows_every_code_that_we_write(code, tmp_path):
    nbytes = 6 * ITEMSIZES[code]
    header, _ = build_header([("a", code, (2, 3), nbytes)], {})
    path = tmp_path / "x.safetensors"
    path.write_bytes(header + bytes(nbytes))
    with safetensors.safe_open(path, "numpy") as opened:
        assert opened.get_slice("a").get_dtype() == code
        assert opened.get_slice("a").get_shape() == [2, 3]


# What others write


def test_a_file_that_safetensors_wrote_is_read():
    data = safetensors.numpy.save(WRITTEN, metadata={"format": "np"})
    header = read_header(MemorySource("x", data))
    assert header.metadata == {"format": "np"}
    assert set(header.tensors) == set(WRITTEN)
    for name, array in WRITTEN.items():
        found = header.tensors[name]
        code, shape = dtypes.container_type(array.dtype.name, array.shape)
        assert (found.code, found.shape, found.nbytes) == (code, shape, array.nbytes)
        assert data[found.offset : found.offset + found.nbytes] == array.tobytes()


def test_a_file_that_safetensors_saved_to_disk_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": np.arange(3, dtype=np.int16)}, path)
    header = read_header(MemorySource("x", path.read_bytes()))
    assert header.tensors["a"].code == "I16"
    assert header.metadata == {}


def test_tensors_come_in_the_order_of_their_data():
    text = {"a": entry(offsets=[4, 8]), "b": entry(offsets=[0, 4])}
    assert list(read_header(file_of(text, bytes(8))).tensors) == ["b", "a"]


def test_an_empty_tensor_may_lie_where_another_begins_or_ends():
    empty = {"shape": [0], "dtype": "F64"}
    text = {
        "a": entry(offsets=[0, 4]),
        "b": {**empty, "data_offsets": [0, 0]},
        "c": {**empty, "data_offsets": [4, 4]},
    }
    assert read_header(file_of(text, bytes(4))).tensors["c"].nbytes == 0


def test_a_file_without_tensors_is_read():
    header = read_header(file_of(b"{}"))
    assert (header.tensors, header.metadata, header.raw) == ({}, {}, b"\x02" + bytes(7) + b"{}")


def test_an_entry_tells_its_place_in_the_file():
    text = {"a": entry("U16", [2], [0, 4])}
    size = len(json.dumps(text))
    found = read_header(file_of(text, bytes(4))).tensors["a"]
    assert found == TensorEntry("U16", (2,), 8 + size, 4)


def test_elements_of_less_than_a_byte_are_counted_in_bits():
    text = {"a": entry("F4", [3, 2], [0, 3]), "b": entry("F6_E2M3", [4], [3, 6])}
    assert read_header(file_of(text, bytes(6))).tensors["b"].nbytes == 3


def test_sixty_four_dimensions_are_read():
    assert read_header(file_of({"a": entry(shape=[1] * 64, offsets=[0, 1])}, b"x"))


def test_a_header_is_frozen_and_slotted():
    value = read_header(file_of(b"{}"))
    assert not hasattr(value, "__dict__")
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, None)


# What is refused


@pytest.mark.parametrize("size", range(8))
def test_a_file_shorter_than_a_length_is_refused(size):
    with pytest.raises(DamagedError, match=f"it has {size} bytes"):
        read_header(MemorySource("x", bytes(size)))


@pytest.mark.parametrize("length", [3, 100, MAX_HEADER_BYTES, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_file_is_refused(length):
    with pytest.raises(DamagedError, match=f"its header claims {length} bytes, the file has 10"):
        read_header(MemorySource("x", length.to_bytes(8, "little") + b"{}"))


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 2**40])
def test_a_header_over_the_limit_is_refused_unread_however_large_the_file(length):
    with pytest.raises(DamagedError, match=f"its header claims {length} bytes"):
        read_header(Pretender(2**50, length.to_bytes(8, "little")))


def test_a_header_of_just_the_limit_is_read():
    with pytest.raises(AssertionError, match="more was read than had to be"):
        read_header(Pretender(2**50, MAX_HEADER_BYTES.to_bytes(8, "little")))


def test_the_limit_is_the_one_of_every_safetensors_reader():
    assert MAX_HEADER_BYTES == 100_000_000


def test_an_empty_header_is_refused():
    refuse(b"", match="not a JSON object")


@pytest.mark.parametrize(
    "text",
    [
        *(b"[]", b"null", b"1", b'"a"', b"[{}]", b" {}", b"\n{}", b"\t{}"),
        *(b"\xef\xbb\xbf{}", "{}".encode("utf-16"), "{}".encode("utf-32")),
    ],
)
def test_a_header_that_does_not_begin_as_an_object_is_refused(text):
    refuse(text, match="its header is not a JSON object")


@pytest.mark.parametrize(
    "text",
    [
        *(b"{", b"{}}", b"{}{}", b"{} x", b"{}\x00", b"{'a':1}", b'{"a"}', b'{"a":1,}', b"{a:1}"),
        *(b"{\x00}", "{}".encode("utf-16-le"), b'{"a\n":1}', b'{"a":1 /* no */}'),
    ],
)
def test_a_header_that_is_no_json_is_refused(text):
    refuse(text, match="not valid JSON")


@pytest.mark.parametrize(
    "text", [b'{"\xff":1}', b'{"\xc3":1}', b'{"\xed\xa0\x80":1}', b'{"\xc0\x80":1}']
)
def test_a_header_that_is_no_utf_8_is_refused(text):
    refuse(text, match="not valid JSON .*utf-8")


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a":{"dtype":"U8","shape":' + b"[" * 2000 + b"]" * 2000 + b',"data_offsets":[0,0]}}',
    ],
)
def test_deep_nesting_is_refused(text):
    refuse(text)


def test_a_number_of_thousands_of_digits_is_refused():
    text = b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}'
    refuse(text, match="not valid JSON")


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":%b,"a":%b}',
        b'{"a":%b,"\\u0061":%b}',
        b'{"__metadata__":{},"__metadata__":{},"a":%b,"b":%b}',
    ],
)
def test_a_name_that_appears_twice_is_refused(text):
    one = json.dumps(entry()).encode()
    two = json.dumps(entry(offsets=[4, 8])).encode()
    refuse(text % (one, two), bytes(8), match="a key appears twice")


@pytest.mark.parametrize("key", ["dtype", "shape", "data_offsets"])
def test_a_key_of_a_tensor_that_appears_twice_is_refused(key):
    text = json.dumps({"a": entry()})
    again = f'"{key}":{json.dumps(entry()[key])},"{key}":'
    refuse(text.replace(f'"{key}": ', again).encode(), bytes(4), match="a key appears twice")


def test_a_key_of_the_metadata_that_appears_twice_is_refused():
    refuse(b'{"__metadata__":{"a":"b","a":"b"}}', match="a key appears twice")


@pytest.mark.parametrize("key", ["dtype", "shape", "data_offsets"])
def test_a_tensor_without_one_of_its_keys_is_refused(key):
    described = entry()
    del described[key]
    refuse({"a": described}, bytes(4), match="tensor 'a' is not described")


@pytest.mark.parametrize("key", ["name", "Dtype", "", "__metadata__"])
def test_a_tensor_with_another_key_is_refused(key):
    refuse({"a": entry(**{key: 1})}, bytes(4), match="tensor 'a' is not described")


@pytest.mark.parametrize("described", [None, 1, "a", [], ["dtype", "shape", "data_offsets"], {}])
def test_a_tensor_that_is_no_object_is_refused(described):
    refuse({"a": described}, match="tensor 'a' is not described")


@pytest.mark.parametrize("code", ["", "u8", "U128", "float32", "F32 ", "BF32", None, 8, True, 0.5])
def test_an_unknown_dtype_is_refused(code):
    refuse({"a": entry(code)}, bytes(4), match="tensor 'a' has the unknown dtype")


NO_SIZES = [-1, 4.0, True, None, "4", [4], {}, 2**63, 10**300, float("nan"), float("inf")]


@pytest.mark.parametrize("size", NO_SIZES)
def test_a_dimension_that_is_no_size_is_refused(size):
    refuse({"a": entry(shape=[size])}, bytes(4), match="a shape or offsets that are no sizes")


@pytest.mark.parametrize("shape", [None, 4, "4", {}, {"0": 4}, True])
def test_a_shape_that_is_no_list_is_refused(shape):
    refuse({"a": entry(shape=shape)}, bytes(4), match="a shape or offsets that are no sizes")


@pytest.mark.parametrize("size", NO_SIZES)
@pytest.mark.parametrize("place", [0, 1])
def test_an_offset_that_is_no_size_is_refused(size, place):
    offsets = [0, 4]
    offsets[place] = size
    refuse({"a": entry(offsets=offsets)}, bytes(4), match="a shape or offsets that are no sizes")


@pytest.mark.parametrize("offsets", [None, 4, "04", {}, [], [0], [0, 4, 4], {"0": 0, "1": 4}])
def test_offsets_that_are_no_pair_are_refused(offsets):
    refuse({"a": entry(offsets=offsets)}, bytes(4), match="a shape or offsets that are no sizes")


@pytest.mark.parametrize(
    ("code", "shape", "end"),
    [
        *(("U8", [3], 4), ("U8", [5], 4), ("U8", [], 4), ("U16", [4], 4), ("U8", [2, 3], 4)),
        *(("U8", [0], 4), ("U8", [1], 0), ("F4", [3], 2), ("F6_E2M3", [1], 1), ("F64", [1], 4)),
    ],
)
def test_a_tensor_that_does_not_have_the_bytes_of_its_shape_is_refused(code, shape, end):
    refuse({"a": entry(code, shape, [0, end])}, bytes(end), match=f"does not have {end} bytes")


def test_offsets_that_run_backwards_are_refused():
    refuse({"a": entry(offsets=[4, 0])}, bytes(4), match="does not have -4 bytes")


@pytest.mark.parametrize("dimensions", [65, 1000])
def test_too_many_dimensions_are_refused(dimensions):
    refuse(
        {"a": entry(shape=[1] * dimensions, offsets=[0, 1])},
        b"x",
        match=rf"tensor 'a' has a shape too large \({dimensions} axes\)",
    )


@pytest.mark.parametrize(
    "shape", [[2**62, 4, 2**62], [2**63 - 1] * 64, [2**62, 8, 0], [0, 2**40, 2**40], [0, 2**60]]
)
@pytest.mark.parametrize("code", ["U8", "F64"])
def test_a_shape_that_overflows_is_refused(code, shape):
    """Of elements or of bytes, though a zero makes it none of either."""
    refuse({"a": entry(code, shape, [0, 0])}, b"", match="shape too large")


@pytest.mark.parametrize("code", sorted(ITEMSIZES))
def test_an_empty_shape_that_is_read_can_be_made(code):
    document = {"a": entry(code, [0, 2**57], [0, 0])}
    [tensor] = read_header(file_of(document)).tensors.values()
    assert np.zeros(tensor.shape, dtypes.numpy_dtype(dtypes.CODE_NAMES[code])).size == 0


@pytest.mark.parametrize("code", [["F32"], {"F32": 1}, None, 5])
def test_a_dtype_that_is_no_text_is_refused(code):
    refuse({"a": entry(code, [], [0, 4])}, bytes(4), match="unknown dtype")


def test_a_name_with_a_lone_surrogate_is_refused():
    refuse({"\ud800": entry(offsets=[0, 4])}, bytes(4), match="a name that is no text")


@pytest.mark.parametrize("names", [["a", "a"], ["__metadata__"]])
def test_a_header_that_nobody_could_read_is_not_built(names):
    with pytest.raises(UsageError, match="cannot hold a second tensor"):
        build_header([(name, "U8", (1,), 1) for name in names], {})


def test_a_gap_before_the_first_tensor_is_refused():
    refuse(
        {"a": entry(offsets=[1, 5])}, bytes(5), match="'a' starts at 1, the one before ends at 0"
    )


def test_a_gap_between_two_tensors_is_refused():
    text = {"a": entry(), "b": entry(offsets=[5, 9])}
    refuse(text, bytes(9), match="'b' starts at 5, the one before ends at 4")


@pytest.mark.parametrize("offsets", [[3, 7], [0, 4], [1, 5]])
def test_two_tensors_that_overlap_are_refused(offsets):
    refuse({"a": entry(), "b": entry(offsets=offsets)}, bytes(8), match="the one before ends at 4")


def test_an_empty_tensor_inside_another_is_refused():
    text = {"a": entry(), "b": entry(shape=[0], offsets=[2, 2])}
    refuse(text, bytes(4), match="'b' starts at 2, the one before ends at 4")


@pytest.mark.parametrize("size", [0, 3])
def test_a_tensor_that_ends_beyond_the_file_is_refused(size):
    refuse({"a": entry()}, bytes(size), match="its tensors end at byte")


def test_a_tensor_that_claims_a_terabyte_is_refused_before_anything_is_read():
    text = {"a": entry(shape=[2**40], offsets=[0, 2**40])}
    refuse(text, bytes(4), match="its tensors end at byte")


def test_trailing_bytes_are_refused():
    end = len(bytes_of({"a": entry()}, bytes(4)))
    match = f"its tensors end at byte {end}, the file has {end + 1} bytes"
    refuse({"a": entry()}, bytes(5), match=match)


def test_a_file_without_tensors_may_not_have_data():
    refuse(b"{}", b"\x00", match="its tensors end at byte 10, the file has 11 bytes")


@pytest.mark.parametrize(
    "value", [None, 1, "a", [], ["a"], {"a": 1}, {"a": None}, {"a": {"b": "c"}}, {"a": ["b"]}]
)
def test_metadata_that_is_no_mapping_of_text_is_refused(value):
    refuse({"__metadata__": value}, match="__metadata__ is not a mapping of strings")


def test_a_file_cut_short_after_its_header_was_measured_is_refused():
    class Shrinking(MemorySource):
        def read_into(self, offset, buffer):
            return super().read_into(offset, buffer[:9])

    with pytest.raises(DamagedError, match="is cut short"):
        read_header(Shrinking("x", bytes_of({"a": entry()}, bytes(4))))


# Flipped bits


def small_file():
    header, length = build_header(
        [("kernel", "F32", (2, 3), 24), ("bias", "U16", (10,), 20)], {"milepost": "text"}
    )
    return header, header + bytes(range(length))


def flips(data, places):
    for place in places:
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            yield bytes(flipped)


def name_places(header):
    """The bytes of a header that are free text: names, and metadata below its own name."""
    return {
        header.index(text) + i
        for text in (b"kernel", b"bias", b"milepost", b'text"')
        for i in range(len(text.rstrip(b'"')))
    }


def test_every_flipped_bit_outside_of_names_is_refused():
    header, data = small_file()
    for flipped in flips(data, set(range(len(header))) - name_places(header)):
        with pytest.raises(DamagedError):
            read_header(MemorySource("x", flipped))


def test_a_flipped_bit_inside_a_name_is_refused_or_changes_that_text_alone():
    header, data = small_file()
    expected = read_header(MemorySource("x", data))
    accepted = 0
    for flipped in flips(data, name_places(header)):
        try:
            found = read_header(MemorySource("x", flipped))
        except DamagedError:
            continue
        accepted += 1
        assert list(found.tensors.values()) == list(expected.tensors.values())
        assert found.raw == flipped[: len(header)] != expected.raw
    assert accepted  # the container has no checksum: the documents inside carry it


def test_every_file_cut_short_is_refused():
    _, data = small_file()
    for size in range(len(data)):
        with pytest.raises(DamagedError):
            read_header(MemorySource("x", data[:size]))
