"""Sealed documents: nothing in one can change, or be cut off, and pass unnoticed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import digest, sealed
from milepost.errors import DamagedError, VersionError
from milepost.sealed import FORMAT_VERSION, seal, unseal

BODY = {"step": 7, "note": "é\n", "leaves": {"a": [1, 0.5, None, True]}}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def document(body, kind="manifest", claimed=None):
    """A document that anybody can write: any body, under any digest."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    claimed = digest.digest(text) if claimed is None else claimed
    return b'{"digest":"%b","%b":%b}' % (claimed.encode(), kind.encode(), text)


@given(body=st.dictionaries(st.text().filter(lambda key: key != "format"), json_values, max_size=4))
@settings(deadline=None)
def test_a_body_comes_back_as_it_was_with_its_format(body):
    found = unseal("manifest", seal("manifest", body), "x")
    assert repr(found) == repr({"format": 1, **body})
    found = unseal("manifest", seal("manifest", body, FORMAT_VERSION), "x")
    assert repr(found) == repr({"format": FORMAT_VERSION, **body})


def test_a_sealed_document_is_the_json_that_the_format_describes():
    text = b'{"format":1,"note":"\xc3\xa9"}'
    sealed_text = seal("store", {"note": "é"})
    assert sealed_text == b'{"digest":"%b","store":%b}' % (digest.digest(text).encode(), text)


def test_any_json_parser_reads_a_sealed_document():
    found = json.loads(seal("manifest", BODY))
    assert list(found) == ["digest", "manifest"]
    assert found["manifest"] == {"format": 1, **BODY}


def test_a_sealed_document_may_be_laid_out_differently_as_long_as_its_digest_is_right():
    assert unseal("manifest", document(b'{\n  "format": 1\n}\n'), "x") == {"format": 1}


def test_a_document_sealed_by_the_checksum_is_read_too():
    text = b'{"format":1}'
    assert unseal("manifest", document(text, claimed=digest.checksum(text)), "x") == {"format": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_hold_is_not_sealed(value):
    with pytest.raises(ValueError, match="JSON"):
        seal("manifest", {"value": value})


def test_every_flipped_bit_is_noticed():
    data = seal("manifest", BODY)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((DamagedError, VersionError)):
            unseal("manifest", bytes(flipped), "x")


def test_a_document_that_is_cut_short_anywhere_is_damaged():
    data = seal("manifest", BODY)
    for length in range(len(data)):
        with pytest.raises(DamagedError, match="x is damaged"):
            unseal("manifest", data[:length], "x")


def test_a_document_whose_beginning_is_lost_is_damaged():
    data = seal("manifest", BODY)
    for start in range(1, len(data)):
        with pytest.raises(DamagedError, match="x is damaged"):
            unseal("manifest", data[start:], "x")


@pytest.mark.parametrize("tail", [b"\n", b" ", b"\x00", b"}", b',"a":1}'])
def test_a_document_with_something_after_it_is_damaged(tail):
    with pytest.raises(DamagedError):
        unseal("manifest", seal("manifest", BODY) + tail, "x")


def test_bytes_that_were_zeroed_are_damage():
    data = seal("manifest", BODY)
    with pytest.raises(DamagedError):
        unseal("manifest", bytes(len(data)), "x")
    with pytest.raises(DamagedError):
        unseal("manifest", data[:100] + bytes(len(data) - 101) + b"}", "x")


def test_a_document_of_another_kind_is_damage():
    with pytest.raises(DamagedError, match="x is damaged: it is not a store document"):
        unseal("store", seal("manifest", BODY), "x")


def test_damage_tells_the_digest_that_was_expected_and_the_one_that_was_found():
    text, other = b'{"format":1}', digest.digest(b"other")
    with pytest.raises(DamagedError) as caught:
        unseal("manifest", document(text, claimed=other), "runs/x.json")
    message = str(caught.value)
    assert message == f"runs/x.json is damaged: expected {other}, found {digest.digest(text)}"


@pytest.mark.parametrize("claimed", ["", "blake3", "é:00", "blake3 :00", "BLAKE3:00", "sha9:xyz"])
def test_a_digest_that_is_none_is_damage(claimed):
    with pytest.raises(DamagedError):
        unseal("manifest", document(b'{"format":1}', claimed=claimed), "x")


def test_an_unknown_digest_of_this_version_is_damage():
    with pytest.raises(DamagedError):
        unseal("manifest", document(b'{"format":1}', claimed="sha9:00"), "x")


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 10**6])
def test_a_newer_format_asks_for_an_upgrade(version):
    with pytest.raises(VersionError, match=rf"x has format version {version}.*upgrade"):
        unseal("manifest", document({"format": version}), "x")


def test_a_newer_format_under_an_unknown_digest_asks_for_an_upgrade():
    body = b'{"format":3,"new":"thing"}'
    with pytest.raises(VersionError, match="format version 3"):
        unseal("manifest", document(body, claimed="sha9:00"), "x")


@pytest.mark.parametrize("claimed", ["", "blake", "sha9:xyz"])
def test_a_newer_format_under_a_digest_that_is_none_is_damage(claimed):
    with pytest.raises(DamagedError, match="is no digest"):
        unseal("manifest", document(b'{"format":3}', claimed=claimed), "x")


def test_a_newer_format_whose_digest_is_wrong_is_damage():
    with pytest.raises(DamagedError):
        unseal("manifest", document(b'{"format":3}', claimed=digest.digest(b"other")), "x")


@pytest.mark.parametrize("version", [0, -1, True, False, None, "1", 1.0, 2.0, [1], {}])
def test_a_format_version_that_is_none_is_damage(version):
    with pytest.raises(DamagedError, match="expected a format version"):
        unseal("manifest", document({"format": version}), "x")


def test_a_body_without_a_format_version_is_damage():
    with pytest.raises(DamagedError, match="expected a format version, found None"):
        unseal("manifest", document({"step": 1}), "x")


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"format"', b"[1]"])
def test_a_body_that_is_no_object_is_damage(body):
    with pytest.raises(DamagedError, match="expected a JSON object"):
        unseal("manifest", document(body), "x")


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b'{"format":1', b'{"format":}', b"{'format':1}", b'{"format":1}{"format":1}'),
        *(
            b'{"format":1,"a":"\xff"}',
            b'{"format":1,"a":"\n"}',
            b'{"format":1' + b"0" * 5000 + b"}",
        ),
        b'{"format":1,"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_a_body_that_is_no_json_is_damage(body):
    with pytest.raises(DamagedError, match="it is not valid JSON"):
        unseal("manifest", document(body), "x")


def test_the_format_version_is_two():
    # Whoever changes this number has read the list above it.
    assert sealed.FORMAT_VERSION == 2
