"""Sorted tables, sound and hostile."""

from __future__ import annotations

import pytest

from milepost.encodings.sstable import read_table
from milepost.errors import DamagedError, UnknownFormatError
from tests.encodings.sources import Bytes
from tests.formats.tensorflow_files import MAGIC, block, sealed, table, varint


def entries(data):
    return list(read_table(Bytes(data)))


def test_keys_share_their_beginnings_and_go_on_in_the_next_block():
    first = block([(b"", b"head"), (b"layer/bias", b"1"), (6, b"kernel", b"2")])
    second = block([(b"layer/other", b""), (b"z" * 300, b"v" * 3000)])
    found = entries(table(first, second))
    assert found == [
        (b"", b"head"),
        (b"layer/bias", b"1"),
        (b"layer/kernel", b"2"),
        (b"layer/other", b""),
        (b"z" * 300, b"v" * 3000),
    ]
    assert entries(table()) == []


def test_any_flipped_bit_is_noticed():
    data = table(block([(b"", b"head"), (b"a", b"1")]), block([(b"b", b"2")]))
    for place in range(len(data) * 8):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(DamagedError):
            entries(bytes(changed))


GOOD = block([(b"a", b"1")])
HUGE = varint(2**63) + varint(2**64 - 1)
HOSTILE = {
    "nothing": b"",
    "only a footer": bytes(40) + MAGIC,
    "no mark": table(GOOD)[:-1] + b"?",
    "handles that overflow": table(GOOD, footer=HUGE + HUGE),
    "numbers without an end": table(GOOD, footer=b"\xff" * 40),
    "an index that points outside": table(GOOD, index=block([(b"x", HUGE)])),
    "an index with a broken handle": table(GOOD, index=block([(b"x", b"\x80")])),
    "an index with more in a handle": table(GOOD, index=block([(b"x", b"\0\x0f!")])),
    "a block that is read twice": table(
        GOOD, index=block([(b"x", varint(0) + varint(len(GOOD) - 5))] * 2)
    ),
    "a gap": table(GOOD, index=block([])),
    "too many restart points": table(block([(b"a", b"1")], restarts=2**32 - 1)),
    "no room for restart points": table(sealed(b"\0\0")),
    "a key that shares too much": table(block([(b"a", b"1"), (2, b"b", b"2")])),
    "a key longer than its block": table(sealed(b"\0\x7f\0a" + bytes(8))),
    "a value longer than its block": table(sealed(b"\0\x01" + varint(2**63) + b"a" + bytes(8))),
    "a key twice": table(block([(b"a", b"1"), (b"a", b"2")])),
    "keys out of order": table(block([(b"b", b"1")]), block([(b"a", b"2")])),
    "keys that grow": table(block([(min(n * 40, 4080), bytes([n]) * 40, b"") for n in range(200)])),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_table_is_refused(name):
    with pytest.raises(DamagedError):
        entries(HOSTILE[name])


@pytest.mark.parametrize("kind", [b"\x01", b"\x09"])
def test_a_compressed_table_is_refused_as_unknown(kind):
    with pytest.raises(UnknownFormatError, match="compressed"):
        entries(table(sealed(b"\x00\x00\x00\x00\x01\0\0\0", kind)))


def test_more_keys_than_any_checkpoint_has_are_refused():
    many = block([(b"%07d" % n, b"") for n in range(90_000)])
    with pytest.raises(DamagedError, match="80,000"):
        entries(table(many))


def test_a_package_that_is_not_there_is_named(tmp_path, monkeypatch):
    import sys

    import tensorflow as tf

    import milepost
    from milepost import errors

    prefix = tf.train.Checkpoint(a=tf.Variable([1.0])).save(str(tmp_path / "ckpt"))
    monkeypatch.setitem(sys.modules, "crc32c", None)
    with pytest.raises(errors.MissingPackageError, match="pip install 'milepost"):
        milepost.open(prefix)
