"""Arrays cut and digested: what is written later is what was digested, or an error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import digest
from milepost.errors import UnsupportedObjectError, UsageError
from milepost.pieces import Piece, digest_array


@pytest.fixture
def tiny_chunks(monkeypatch):
    monkeypatch.setattr("milepost.pieces.CHUNK_BYTES", 24)


def piece_of(offset, shape, start, data):
    return Piece(offset, shape, start, len(data), digest.digest(data), digest.checksum(data))


def test_a_small_array_is_one_piece():
    array = np.arange(6, dtype="<i4").reshape(2, 3)
    found = digest_array("a", array)
    assert (found.name, found.dtype, found.shape, found.nbytes) == ("a", "int32", (2, 3), 24)
    assert found.pieces == (piece_of((0, 0), (2, 3), 0, array.tobytes()),)


@pytest.mark.usefixtures("tiny_chunks")
def test_a_large_array_is_cut_into_pieces_that_are_digested_each():
    array = np.arange(9, dtype="<i4").reshape(3, 3)
    data = array.tobytes()
    found = digest_array("a", array)
    assert found.pieces == (
        piece_of((0, 0), (2, 3), 0, data[:24]),
        piece_of((2, 0), (1, 3), 24, data[24:]),
    )
    assert found.nbytes == 36


def test_an_array_without_elements_has_no_pieces():
    found = digest_array("a", np.zeros((0, 3), np.float16))
    assert (found.pieces, found.nbytes, found.shape) == ((), 0, (0, 3))
    assert found.dtype == "float16"
    assert list(found.data(found.pieces)) == []


def test_an_array_without_dimensions_is_one_piece():
    found = digest_array("a", np.array(1.5, "<f8"))
    assert found.pieces == (piece_of((), (), 0, np.array(1.5, "<f8").tobytes()),)


def test_a_numpy_scalar_is_digested_as_an_array():
    assert digest_array("a", np.float32(1)).shape == ()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=">i4").reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype="<i4").reshape(3, 4)),
        np.arange(24, dtype="<i4").reshape(3, 8)[:, ::2] // 2,
    ],
)
@pytest.mark.usefixtures("tiny_chunks")
def test_equal_values_have_equal_pieces_however_they_lie_in_memory(array):
    plain = digest_array("a", np.arange(12, dtype="<i4").reshape(3, 4))
    found = digest_array("a", array)
    assert found.pieces == plain.pieces
    assert found.dtype == plain.dtype == "int32"
    assert b"".join(found.data(found.pieces)) == b"".join(plain.data(plain.pieces))


def test_the_bits_of_nan_and_of_negative_zero_are_digested():
    quiet, other = np.array([0x7FC00000, 0x7FC00001], "<u4").view("<f4").reshape(2, 1)
    assert digest_array("a", quiet).pieces != digest_array("a", other).pieces
    assert digest_array("a", np.array(0.0)).pieces != digest_array("a", np.array(-0.0)).pieces


@pytest.mark.usefixtures("tiny_chunks")
@pytest.mark.parametrize("chosen", [(0,), (1,), (0, 1), (1, 0), ()])
def test_the_data_of_chosen_pieces_is_theirs_and_in_their_order(chosen):
    array = np.arange(12, dtype="<i4").reshape(3, 4) * 1000
    found = digest_array("a", array)
    rows = [array.tobytes()[:16], array.tobytes()[16:32]]
    data = [bytes(part) for part in found.data(found.pieces[i] for i in chosen)]
    assert data == [rows[i] for i in chosen]


@given(shape=st.lists(st.integers(0, 7), max_size=3).map(tuple))
@settings(deadline=None)
def test_the_data_of_all_pieces_is_the_array(shape):
    array = np.arange(np.prod(shape, dtype=int), dtype="<u2").reshape(shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("milepost.pieces.CHUNK_BYTES", 8)
        found = digest_array("a", array)
    assert b"".join(found.data(found.pieces)) == array.tobytes()
    assert found.nbytes == array.nbytes


def test_writing_the_data_of_an_array_that_lies_right_copies_nothing():
    array = np.arange(6, dtype="<i4")
    found = digest_array("a", array)
    [data] = found.data(found.pieces)
    assert np.shares_memory(np.frombuffer(data, "u1"), array)


def test_an_array_that_changes_between_digest_and_write_is_noticed():
    array = np.zeros(6, "<i4")
    found = digest_array("layer/kernel", array)
    array[5] = 1
    with pytest.raises(UsageError, match="leaf 'layer/kernel' changed while it was being saved"):
        list(found.data(found.pieces))


@pytest.mark.usefixtures("tiny_chunks")
def test_a_change_in_another_piece_does_not_matter():
    array = np.zeros(12, "<i4")
    found = digest_array("a", array)
    array[11] = 1
    assert [bytes(part) for part in found.data(found.pieces[:1])] == [bytes(24)]


@pytest.mark.usefixtures("tiny_chunks")
def test_an_array_that_shrinks_between_digest_and_write_is_noticed():
    class Replaceable:
        """An array as a framework hands it over, whose memory another thread replaces."""

        value = np.zeros(12, "<i4")
        dtype = value.dtype
        shape = value.shape

        def __array__(self, dtype=None, copy=None):
            return self.value

    array = Replaceable()
    found = digest_array("a", array)
    array.value = np.zeros(3, "<i4")
    with pytest.raises(UsageError, match="changed while it was being saved"):
        list(found.data(found.pieces))


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([b"a"]), np.zeros(2, "V4")])
def test_strings_and_records_are_refused(array):
    with pytest.raises(UnsupportedObjectError):
        digest_array("a", array)


def test_a_digested_array_and_its_pieces_are_slotted():
    found = digest_array("a", np.zeros(1))
    for value in (found, *found.pieces):
        assert not hasattr(value, "__dict__")


def test_objects_are_refused_with_an_error_of_ours():
    with pytest.raises(UnsupportedObjectError, match="dtype object"):
        digest_array("a", np.array([object()]))


class Halting:
    """An array that comes in parts of any size."""

    def __init__(self, array, cuts):
        self.array, self.cuts = array, cuts
        self.dtype, self.shape = array.dtype, array.shape

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("it was read as a whole")

    def stored_parts(self):
        whole = memoryview(self.array.tobytes())
        for start, stop in zip([0, *self.cuts], [*self.cuts, len(whole)], strict=True):
            yield whole[start:stop]


@pytest.mark.usefixtures("tiny_chunks")
@given(st.integers(0, 40), st.lists(st.integers(0, 160), max_size=9), st.data())
@settings(deadline=None)
def test_an_array_in_parts_is_cut_like_a_whole_one(size, cuts, data):
    array = np.arange(size, dtype="<i4")
    cuts = sorted(min(cut, size * 4) for cut in cuts)
    whole, found = digest_array("a", array), digest_array("a", Halting(array, cuts))
    assert found.pieces == whole.pieces
    chosen = [piece for piece in found.pieces if data.draw(st.booleans())]
    expected = [bytes(view) for view in whole.data(chosen)]
    assert [bytes(view) for view in found.data(chosen)] == expected


@pytest.mark.parametrize("size", [5, 7])
def test_an_array_in_parts_of_another_length_is_noticed(size):
    array = Halting(np.arange(6, dtype="<i4"), [24])
    found = digest_array("a", array)
    array.array = np.arange(size, dtype="<i4")
    with pytest.raises(UsageError, match="changed while"):
        found.check()
