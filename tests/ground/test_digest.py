"""Digests and checksums: the algorithms, their spelling, and telling them apart."""

from __future__ import annotations

import blake3
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import digest

BLAKE3_OF_NOTHING = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
XXH3_OF_NOTHING = "xxh3:2d06800538d394c2"


def test_the_digest_of_nothing_is_the_one_that_blake3_publishes():
    assert digest.digest(b"") == BLAKE3_OF_NOTHING


def test_the_digest_of_abc_is_the_one_that_blake3_publishes():
    expected = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
    assert digest.digest(b"abc") == f"blake3:{expected}"


def test_the_checksum_of_nothing_is_the_one_that_xxhash_publishes():
    assert digest.checksum(b"") == XXH3_OF_NOTHING


def test_a_checksum_keeps_its_leading_zeros():
    data = next(
        number.to_bytes(4, "little")
        for number in range(10_000)
        if xxhash.xxh3_64_intdigest(number.to_bytes(4, "little")) < 1 << 60
    )
    assert digest.checksum(data).startswith("xxh3:0")
    assert len(digest.checksum(data)) == len("xxh3:") + 16


@pytest.mark.parametrize("size", [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_threads_do_not_change_a_digest(size):
    data = bytes(range(251)) * (size // 251 + 1)
    one_thread = blake3.blake3(data[:size], max_threads=1).hexdigest()
    assert digest.digest(data[:size]) == f"blake3:{one_thread}"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("function", [digest.digest, digest.checksum])
def test_every_kind_of_buffer_gives_the_same_result(function, kind):
    assert function(kind(b"milepost")) == function(b"milepost")


@given(data=st.binary(max_size=200))
@settings(deadline=None)
def test_data_matches_its_own_digest_and_checksum(data):
    assert digest.matches(digest.digest(data), data)
    assert digest.matches(digest.checksum(data), data)


@given(data=st.binary(min_size=1, max_size=50), bit=st.integers(min_value=0))
@settings(deadline=None)
def test_one_flipped_bit_matches_neither_digest_nor_checksum(data, bit):
    flipped = bytearray(data)
    flipped[bit // 8 % len(data)] ^= 1 << bit % 8
    assert not digest.matches(digest.digest(data), flipped)
    assert not digest.matches(digest.checksum(data), flipped)


def test_a_digest_in_capitals_does_not_match():
    value = digest.digest(b"x")
    assert not digest.matches("blake3:" + value.removeprefix("blake3:").upper(), b"x")


def test_a_shortened_digest_does_not_match():
    assert not digest.matches(digest.digest(b"x")[:-2], b"x")


def test_matching_an_unknown_algorithm_is_a_key_error():
    with pytest.raises(KeyError):
        digest.matches("sha999:00", b"x")


@pytest.mark.parametrize("value", [BLAKE3_OF_NOTHING, XXH3_OF_NOTHING, "sha3-256:0f", "a:0"])
def test_a_name_a_colon_and_hexadecimal_digits_are_well_formed(value):
    assert digest.is_well_formed(value)


@pytest.mark.parametrize(
    "value",
    [
        *("", ":", "blake3", "blake3:", ":00", "blake3:0G", "blake3:0A", "BLAKE3:00", "3b:00"),
        *("blake3:00\n", " blake3:00", "blake3: 00", "blake3:00:00", "blake3:\u0660", "-a:00"),
        *(None, 7, b"blake3:00", ["blake3:00"]),
    ],
)
def test_anything_else_is_not_well_formed(value):
    assert not digest.is_well_formed(value)


@pytest.mark.parametrize(
    ("value", "known"),
    [("blake3:00", True), ("xxh3:00", True), ("blake2:00", False), ("xxh32:00", False)],
)
def test_only_blake3_and_xxh3_are_known(value, known):
    assert digest.is_known(value) is known
