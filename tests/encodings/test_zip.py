"""Zip archives: what writers write is read, and what two readers would read differently is not."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest

from milepost.encodings.zip import read_archive
from milepost.errors import DamagedError, MilepostError, UntrustedError
from milepost.source import read_exactly
from tests.encodings.sources import Bytes


class Stream(io.RawIOBase):
    """A file that cannot go back: zipfile writes the sizes behind the bytes."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.data += data
        return len(data)


CONTENT = {"a.txt": b"hello " * 500, "b/c": b"", "é/d.bin": bytes(range(256)) * 40}


def archive(method=zipfile.ZIP_STORED, file=None, force_zip64=False):
    file = io.BytesIO() if file is None else file
    with zipfile.ZipFile(file, "w", method) as made:
        for name, data in CONTENT.items():
            with made.open(name, "w", force_zip64=force_zip64) as member:
                member.write(data)
    return file.getvalue() if isinstance(file, io.BytesIO) else bytes(file.data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_what_python_writes(method, wide, streamed):
    made = read_archive(Bytes(archive(method, Stream() if streamed else None, wide)))
    assert list(made.members) == list(CONTENT)
    for name, data in CONTENT.items():
        assert made.read(name, len(data)) == data
        assert made.members[name].stored == (method == zipfile.ZIP_STORED)
        made.check(name)
        with pytest.raises(DamagedError):
            made.read(name, len(data) - 1)


def test_what_numpy_writes():
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, a=np.arange(5), W=np.ones(3), w=np.zeros(100_000))
        assert list(read_archive(Bytes(file.getvalue())).members) == ["a.npy", "W.npy", "w.npy"]


def test_a_deflated_member_is_read_in_parts_in_any_order():
    chance = np.random.default_rng(3)
    data = chance.integers(0, 4, 5 << 20, dtype=np.uint8).tobytes()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("x", data)
    source = read_archive(Bytes(file.getvalue())).source("x")
    for start in [0, 100, 4 << 20, 1 << 20, (5 << 20) - 9, 0, 3 << 20]:
        assert read_exactly(source, start, 9) == data[start : start + 9]
    assert read_exactly(source, 0, len(data)) == data


def test_going_backwards_starts_near():
    data = np.random.default_rng(3).integers(0, 4, 32 << 20, dtype=np.uint8).tobytes()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        made.writestr("x", data)
    bytes_ = Bytes(file.getvalue())
    source = read_archive(bytes_).source("x")
    read_exactly(source, len(data) - 8, 8)
    before = bytes_.read
    for start in range((32 << 20) - 4096, 16 << 20, -(1 << 20)):
        assert read_exactly(source, start, 8) == data[start : start + 8]
    assert bytes_.read - before < 16 << 20


def with_central(data, position, value):
    """`data` with some bytes of the first entry of its directory changed."""
    at = data.find(b"PK\x01\x02") + position
    return data[:at] + value + data[at + len(value) :]


def with_end(data, position, value):
    at = data.rfind(b"PK\x05\x06") + position
    return data[:at] + value + data[at + len(value) :]


def named(*names):
    """An archive whose members have names that zipfile would not write."""
    stand_ins = ["@%"[n] * len(name.encode()) for n, name in enumerate(names)]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for stand_in in stand_ins:
            made.writestr(stand_in, b"")
    data = file.getvalue()
    for stand_in, name in zip(stand_ins, names, strict=True):
        data = data.replace(stand_in.encode(), name.encode())
    return data


STORED, DEFLATED = archive(), archive(zipfile.ZIP_DEFLATED)
_LINK = struct.pack("<L", 0o120777 << 16)
_WRONG = {
    "two of a name": (named("a", "a"), UntrustedError),
    "an absolute path": (named("/etc/x"), UntrustedError),
    "a parent": (named("a/../../x"), UntrustedError),
    "a parent alone": (named(".."), UntrustedError),
    "a drive": (named("C:/x"), UntrustedError),
    "a backslash": (named("a\\b"), UntrustedError),
    "a control character": (named("a\nb"), UntrustedError),
    "a zero": (named("a\0b"), UntrustedError),
    "an empty part": (named("a//b"), UntrustedError),
    "a link": (with_central(STORED, 38, _LINK), UntrustedError),
    "encrypted": (with_central(STORED, 8, b"\x01\x00"), UntrustedError),
    "unknown flags": (with_central(STORED, 8, b"\x00\x10"), DamagedError),
    "an unknown method": (with_central(DEFLATED, 10, b"\x0c\x00"), DamagedError),
    "another method": (with_central(DEFLATED, 10, b"\x00\x00"), UntrustedError),
    "another name": (with_central(STORED, 46, b"b"), UntrustedError),
    "another size": (with_central(DEFLATED, 24, b"\x01\x00"), UntrustedError),
    "another checksum": (with_central(STORED, 16, b"\x01"), UntrustedError),
    "another place": (with_central(STORED, 42, b"\x01"), UntrustedError),
    "a bomb": (with_central(DEFLATED, 24, b"\xff\xff\xff\x7f"), UntrustedError),
    "something before": (b"#!/bin/sh\n" + STORED, UntrustedError),
    "something behind": (STORED + b"x", DamagedError),
    "a comment": (with_end(STORED, 20, b"\x01\x00") + b"x", DamagedError),
    "one archive behind another": (STORED + DEFLATED, UntrustedError),
    "several disks": (with_end(STORED, 4, b"\x01\x00"), UntrustedError),
    "other counts": (with_end(STORED, 8, b"\x02\x00"), UntrustedError),
    "fewer members": (with_end(STORED, 8, b"\x02\x00\x02\x00"), UntrustedError),
    "more members": (with_end(STORED, 8, b"\x04\x00\x04\x00"), DamagedError),
    "a directory elsewhere": (with_end(STORED, 16, b"\x00\x00\x00\x00"), UntrustedError),
    "cut short": (STORED[:-1], DamagedError),
    "nothing": (b"", DamagedError),
    "no archive": (b"PK\x03\x04" * 20, DamagedError),
    "an end alone": (b"PK\x05\x06" + b"\xff" * 16 + b"\x00\x00", MilepostError),
}


@pytest.mark.parametrize("name", _WRONG)
def test_tricks_are_refused(name):
    data, error = _WRONG[name]
    with pytest.raises(error):
        read_archive(Bytes(data))


def test_two_end_records():
    """Readers that look from the front find one archive, from the back another."""
    inner = archive()
    data = with_end(STORED, 20, struct.pack("<H", len(inner))) + inner
    with pytest.raises(UntrustedError):
        read_archive(Bytes(data))


def test_something_hidden_between_members():
    at = STORED.rfind(b"PK\x03\x04")
    hidden = STORED[:at] + b"hidden" + STORED[at:]
    directory = hidden.find(b"PK\x01\x02")
    last = hidden.rfind(b"PK\x01\x02")
    hidden = bytearray(hidden)
    hidden[last + 42 : last + 46] = struct.pack("<L", at + 6)
    end = hidden.rfind(b"PK\x05\x06")
    hidden[end + 16 : end + 20] = struct.pack("<L", directory)
    with pytest.raises(UntrustedError, match="hidden"):
        read_archive(Bytes(bytes(hidden)))


def test_damaged_content_is_found():
    for data in (STORED, DEFLATED):
        start = read_archive(Bytes(data)).members["é/d.bin"].offset
        for place in (start, start + 20):
            flipped = bytearray(data)
            flipped[place] ^= 4
            with pytest.raises(DamagedError):
                read_archive(Bytes(bytes(flipped))).read("é/d.bin", 1 << 20)


def test_an_empty_archive_has_no_members():
    file = io.BytesIO()
    zipfile.ZipFile(file, "w").close()
    assert read_archive(Bytes(file.getvalue())).members == {}


@pytest.mark.parametrize("data", [STORED, DEFLATED], ids=["stored", "deflated"])
def test_any_change_of_a_byte_gives_an_error_of_ours_or_the_same(data):
    for place in range(len(data)):
        for bit in (1, 128):
            flipped = bytearray(data)
            flipped[place] ^= bit
            try:
                made = read_archive(Bytes(bytes(flipped)))
                found = {name: made.read(name, 1 << 20) for name in made.members}
            except MilepostError:
                continue
            assert found == CONTENT
