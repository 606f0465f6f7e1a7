"""Encoded chunks: decoded to the same bits, and refused where they are not what was written."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import decoding, digest
from milepost.chunk import PLANES, Chunk, Encoding, check_place, decode, encode
from milepost.encodings.planes import BLOCK, Planes, blocks, table
from milepost.errors import DamagedError, MilepostError, VersionError
from tests.encodings.sources import Bytes


def weights(count: int, seed: int = 0) -> bytes:
    return (np.random.default_rng(seed).standard_normal(count) * 0.02).astype("<f4").tobytes()


def coded(raw: bytes, base: bytes | None = None, width: int = 4, low: int = 2) -> bytes:
    planes = Planes(width, low)
    others = [None] * len(raw) if base is None else blocks(memoryview(base), width)
    streams = [
        stream
        for block, other in zip(blocks(memoryview(raw), width), others, strict=base is not None)
        for stream in planes.encode(block, other)
    ]
    return table(streams) + b"".join(streams)


def plain_chunk(raw: bytes, file: int, position: int = 0) -> Chunk:
    shape = (len(raw) // 4,)
    values = digest.digest(raw), digest.checksum(raw)
    return Chunk((0,), shape, *values, file, position, len(raw))


def encoded_chunk(raw: bytes, data: bytes, file: int, base: Chunk | None = None) -> Chunk:
    encoding = Encoding(PLANES, len(data), digest.checksum(data), 4, 2, base)
    return dataclasses.replace(plain_chunk(raw, file), encoding=encoding)


class Source(Bytes):
    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def read(files: list[bytes], chunk: Chunk) -> bytes:
    sources = [Source(data, f"file{number}") for number, data in enumerate(files)]
    decoding.check(sources, chunk)
    target = bytearray(chunk.nbytes)
    decoding.decode_into(sources, chunk, memoryview(target))
    return bytes(target)


@pytest.mark.parametrize("count", [1, 100, BLOCK, BLOCK + 1, 3 * BLOCK - 5])
def test_alone_to_a_plain_base_and_to_an_encoded_one(count: int):
    base, raw = weights(count, 1), weights(count)
    alone, to_base = coded(base), coded(raw, base)
    assert read([alone], encoded_chunk(base, alone, 0)) == base
    plain = plain_chunk(base, 0)
    assert read([base, to_base], encoded_chunk(raw, to_base, 1, plain)) == raw
    deep = encoded_chunk(base, alone, 0)
    assert read([alone, to_base], encoded_chunk(raw, to_base, 1, deep)) == raw


def test_padding_is_checked_and_passed_over():
    raw = weights(1000)
    data = coded(raw) + bytes(50)
    chunk = encoded_chunk(raw, data, 0)
    assert read([data], chunk) == raw
    with pytest.raises(DamagedError, match="file0: bytes 0 to"):
        read([data[:-1] + b"\1"], chunk)


@pytest.mark.parametrize("changed", [0, 1])
def test_a_flipped_bit_is_noticed_in_the_chunk_and_in_its_base(changed: int):
    base, raw = weights(2000, 1), weights(2000)
    files = [coded(base), coded(raw, base)]
    chunk = encoded_chunk(raw, files[1], 1, encoded_chunk(base, files[0], 0))
    sources = [Source(data, f"file{number}") for number, data in enumerate(files)]
    for bit in range(0, len(files[changed]) * 8, 997):
        data = bytearray(files[changed])
        data[bit // 8] ^= 1 << bit % 8
        sources[changed] = Source(bytes(data), f"file{changed}")
        with pytest.raises(DamagedError, match=f"file{changed}: bytes 0 to {len(data)} are"):
            decoding.check(sources, chunk)
        with pytest.raises(DamagedError, match=r"file[01]: bytes 0 to .* are damaged"):
            decoding.decode_into(sources, chunk, memoryview(bytearray(len(raw))))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 3000), st.sampled_from([0, 2]))
def test_bytes_that_somebody_made_up_are_refused(data: bytes, count: int, low: int):
    """Their own checksum is right; what they decode to is not what the record says."""
    raw = weights(count)
    chunk = encoded_chunk(raw, data, 0)
    chunk = dataclasses.replace(chunk, encoding=dataclasses.replace(chunk.encoding, low=low))
    with pytest.raises(DamagedError, match="file0: bytes 0 to"):
        read([data], chunk)


def test_a_base_of_another_length_is_refused():
    raw = weights(BLOCK * 2)
    data = coded(raw, weights(BLOCK * 2, 1))
    for count in (BLOCK, BLOCK * 3):
        base = plain_chunk(weights(count, 1), 0)
        with pytest.raises(DamagedError, match="cannot be decoded"):
            read([weights(count, 1), data], encoded_chunk(raw, data, 1, base))


# As JSON


def whole() -> Chunk:
    raw, base = weights(1000), weights(1000, 1)
    first = encoded_chunk(base, coded(base), 0)
    return encoded_chunk(raw, coded(raw, base), 1, first)


def through(item: object) -> Chunk:
    return decode(item, (1000,), 4, None)


def bare(chunk: Chunk) -> Chunk:
    """A base has no box of its own."""
    base = chunk.encoding.base
    base = dataclasses.replace(base, offset=(), shape=())
    return dataclasses.replace(chunk, encoding=dataclasses.replace(chunk.encoding, base=base))


def test_an_encoding_passes_through_json():
    assert through(encode(whole(), (1000,))) == bare(whole())


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("codec", "brotli", VersionError),
        ("codec", 3, VersionError),
        ("width", 3, TypeError),
        ("width", True, TypeError),
        ("width", "4", TypeError),
        ("low", 4, TypeError),
        ("low", 3, TypeError),
        ("low", 1, TypeError),
        ("low", -1, TypeError),
        ("bytes", -1, DamagedError),
        ("bytes", 1.5, DamagedError),
        ("bytes", 3, DamagedError),  # 4000 bytes would be more than 1024 times as many
        ("base", [], TypeError),
        ("base", None, TypeError),
    ],
)
def test_what_is_no_encoding_is_refused(key: str, value: object, error: type[Exception]):
    item = encode(whole(), (1000,))
    item["encoding"][key] = value
    with pytest.raises(error):
        through(item)


def test_bases_stand_on_one_another_only_so_deep():
    item = encode(whole(), (1000,))
    lowest = item["encoding"]["base"]
    for _ in range(2):
        lowest["encoding"]["base"] = {**encode(whole(), (1000,))["encoding"]["base"]}
        through(item)
        lowest = lowest["encoding"]["base"]
    lowest["encoding"]["base"] = {**lowest, "encoding": {"codec": "stored"}}
    with pytest.raises(DamagedError, match="stand on one another"):
        through(item)


def test_a_base_outside_of_its_file_is_refused():
    chunk = whole()
    sizes = [chunk.encoding.base.end, chunk.end]
    check_place("leaf", chunk, sizes)
    for number in range(2):
        short = list(sizes)
        short[number] -= 1
        with pytest.raises(DamagedError, match="leaf"):
            check_place("leaf", chunk, short)
    with pytest.raises(DamagedError, match="of 1"):
        check_place("leaf", chunk, sizes[:1])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_made_up_json_is_read_or_refused(data: st.DataObject):
    values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    item = encode(whole(), (1000,))
    place = item
    for _ in range(data.draw(st.integers(0, 3))):
        inner = [value for value in place.values() if isinstance(value, dict)]
        place = data.draw(st.sampled_from(inner)) if inner else place
    key = data.draw(st.sampled_from(sorted(place)))
    place[key] = data.draw(
        values | st.lists(values, max_size=2) | st.dictionaries(st.text(), values)
    )
    try:
        check_place("leaf", through(item), [10**6, 10**6])
    except (MilepostError, KeyError, TypeError, AttributeError, ValueError):
        pass  # as `record.decode` expects them
