"""GGUF files, as the package `gguf` writes and reads them."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFEndian, GGUFReader, GGUFWriter, quants
from ml_dtypes import bfloat16

import milepost
from milepost.errors import (
    DamagedError,
    LeafNotFoundError,
    MilepostError,
    UnknownFormatError,
    UsageError,
    VersionError,
)
from milepost.formats.gguf_types import BLOCKS, PLAIN
from milepost.testing import FormatTests
from milepost.testing.watch import soon

_CHANCE = np.random.default_rng(7)
_DEQUANTISABLE = [t for t in GGMLQuantizationType if int(t) in BLOCKS and t in quants._type_traits]


def _writer(path, **options):
    writer = GGUFWriter(path, "llama", **options)
    writer.add_name("tiny")
    writer.add_uint64("large", 2**63 + 1)
    writer.add_float32("nan", float("nan"))
    writer.add_bool("yes", True)
    writer.add_array("tokenizer.ggml.tokens", [f"token {i}" for i in range(1000)])
    writer.add_array("tokenizer.ggml.scores", [i / 2 for i in range(1000)])
    writer.add_array("short", [1, 2, 3])
    return writer


def _finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _read(path):
    """What gguf itself finds; bfloat16 it hands out as bytes."""
    tensors = {}
    for tensor in GGUFReader(path).tensors:
        value = np.array(tensor.data)
        if tensor.tensor_type == GGMLQuantizationType.BF16:
            value = value.view(bfloat16)
        tensors[tensor.name] = value
    return tensors


def _plain():
    return {
        "token_embd.weight": _CHANCE.normal(size=(9, 5)).astype(np.float32),
        "blk.0.norm": _CHANCE.normal(size=7).astype(np.float16),
        "blk.0.f64": _CHANCE.normal(size=(2, 3, 4)),
        **{f"i{8 * n}": np.arange(6, dtype=f"i{n}").reshape(2, 3) for n in (1, 2, 4, 8)},
    }


def _random_blocks(kind, rows=3, blocks=2):
    """Bytes that any block may have: numbers only, no NaN in a scale."""
    elements, _ = GGML_QUANT_SIZES[kind]
    values = _CHANCE.normal(size=(rows, elements * blocks)).astype(np.float32)
    try:
        return quants.quantize(values, kind)
    except NotImplementedError:
        size = GGML_QUANT_SIZES[kind][1]
        return _CHANCE.integers(0, 60, (rows, size * blocks), dtype=np.uint8)


def _quantised_file(path, kinds=_DEQUANTISABLE):
    writer = _writer(path)
    for kind in kinds:
        writer.add_tensor(f"{kind.name}.weight", _random_blocks(kind), raw_dtype=kind)
    writer.add_tensor("norm", np.ones(5, np.float32))
    _finish(writer)


class TestGGUF(FormatTests):
    def make(self, folder):
        path = folder / "model.gguf"
        writer = _writer(path)
        for name, value in _plain().items():
            writer.add_tensor(name, value)
        bf16 = quants.quantize(np.float32([[1.5, -2, 3], [4, 5, 6]]), GGMLQuantizationType.BF16)
        writer.add_tensor("bf16", bf16, raw_dtype=GGMLQuantizationType.BF16)
        _finish(writer)
        return path, _read(path)


class TestBigEndian(FormatTests):
    def make(self, folder):
        path = folder / "model.gguf"
        writer = _writer(path, endianess=GGUFEndian.BIG)
        for name, value in _plain().items():
            # The writer turns the values round itself, in place.
            writer.add_tensor(name, value.copy())
        bf16 = np.array([1.5, -2, 3], bfloat16).view(np.uint16).byteswap().view(np.uint8)
        writer.add_tensor("bf16", bf16, raw_dtype=GGMLQuantizationType.BF16)
        _finish(writer)
        return path, {**_plain_again(path), "bf16": np.array([1.5, -2, 3], bfloat16)}


def _plain_again(path):
    return {
        tensor.name: np.array(tensor.data)
        for tensor in GGUFReader(path).tensors
        if tensor.name != "bf16"
    }


class TestQuantised(FormatTests):
    def make(self, folder):
        path = folder / "model.gguf"
        _quantised_file(path)
        return path, _read(path)


class TestOtherAlignment(FormatTests):
    def make(self, folder):
        path = folder / "model.gguf"
        writer = _writer(path)
        writer.add_custom_alignment(256)
        for name, value in _plain().items():
            writer.add_tensor(name, value)
        _finish(writer)
        return path, _read(path)


def test_the_types_are_those_that_gguf_knows():
    known = {int(t): (t.name, *GGML_QUANT_SIZES[t]) for t in GGMLQuantizationType}
    ours = {number: tuple(block) for number, block in BLOCKS.items()}
    assert ours == {number: value for number, value in known.items() if number not in PLAIN}
    assert PLAIN.keys() <= known.keys()


def test_dequantised_is_what_gguf_computes_to_the_last_bit(tmp_path):
    path = tmp_path / "model.gguf"
    _quantised_file(path)
    assert len(_DEQUANTISABLE) > 20
    reader = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    with milepost.open(path) as snapshot:
        whole = snapshot.dequantised()
        assert list(whole) == list(snapshot)
        for kind in _DEQUANTISABLE:
            name = f"{kind.name}.weight"
            expected = quants.dequantize(reader[name].data, kind)
            found = whole.read(name)
            assert (found.dtype, found.shape) == (np.float32, expected.shape)
            assert found.tobytes() == expected.tobytes(), name
            assert whole[name][1, 5:70].tobytes() == expected[1, 5:70].tobytes()
            assert whole[name][:, 3].tobytes() == expected[:, 3].tobytes()
            elements = GGML_QUANT_SIZES[kind][0]
            assert snapshot.record(name).kind == f"{kind.name} [3, {2 * elements}]"
        assert whole.read("norm").tolist() == [1] * 5


def test_what_gguf_cannot_dequantise_stays_as_it_is(tmp_path):
    path = tmp_path / "model.gguf"
    _quantised_file(path, [GGMLQuantizationType.Q8_K])
    with milepost.open(path) as snapshot:
        assert snapshot.dequantised().spec("Q8_K.weight") == snapshot.spec("Q8_K.weight")


def test_a_large_tensor_is_dequantised_part_after_part(tmp_path):
    path = tmp_path / "model.gguf"
    writer = _writer(path)
    values = quants.quantize(_CHANCE.normal(size=(3000, 4096)).astype(np.float32), _Q4_0)
    writer.add_tensor("w", values, raw_dtype=_Q4_0)
    _finish(writer)
    expected = quants.dequantize(values, _Q4_0)
    with milepost.open(path) as snapshot:
        whole = snapshot.dequantised()
        parts = [part.reshape(-1) for _, part in whole.read_parts("w")]
        assert np.concatenate(parts).tobytes() == expected.tobytes()
        assert whole["w"][:, 7].tobytes() == expected[:, 7].tobytes()


_Q4_0 = GGMLQuantizationType.Q4_0


def test_big_endian_blocks_are_not_dequantised(tmp_path):
    path = tmp_path / "model.gguf"
    writer = _writer(path, endianess=GGUFEndian.BIG)
    writer.add_tensor("w", _random_blocks(_Q4_0), raw_dtype=_Q4_0)
    _finish(writer)
    with milepost.open(path) as snapshot, pytest.raises(UsageError, match="big-endian"):
        snapshot.dequantised()


def test_metadata(tmp_path):
    path = tmp_path / "model.gguf"
    _quantised_file(path, [_Q4_0])
    with milepost.open(path) as snapshot:
        facts = snapshot.facts()
        assert facts["architecture"] == "llama"
        assert facts["model"] == "tiny"
        assert facts["types"] == {"Q4_0": 1, "float32": 1}
        metadata = snapshot.metadata
        assert metadata["large"] == 2**63 + 1
        assert metadata["nan"] == "nan"
        assert metadata["short"] == [1, 2, 3]
        tokens = metadata["tokenizer.ggml.tokens"]
        assert (tokens["type"], tokens["count"]) == ("string", 1000)
        assert tokens["first"][:2] == ["token 0", "token 1"]
        assert snapshot.value("tokenizer.ggml.tokens") == [f"token {i}" for i in range(1000)]
        assert snapshot.value("tokenizer.ggml.scores")[-1] == 499.5
        with pytest.raises(LeafNotFoundError):
            snapshot.value("no such key")


def test_a_vocabulary_is_passed_over_quickly(tmp_path):
    path = tmp_path / "model.gguf"
    words = b"".join(
        struct.pack("<Q", len(w)) + w for w in (b"word %d" % i for i in range(700_000))
    )
    path.write_bytes(_file(keys=[("tokens", 9, struct.pack("<IQ", 8, 700_000) + words)]))
    with soon(1.5), milepost.open(path) as snapshot:
        assert snapshot.metadata["tokens"]["count"] == 700_000


def test_a_file_without_its_last_padding_is_sound(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(_file(tensors=[("w", [3], 0, 0)], data=struct.pack("<3f", 1, 2, 3)))
    assert milepost.open(path).read("w").tolist() == [1, 2, 3]


def test_a_type_of_the_future_comes_as_bytes(tmp_path):
    path = tmp_path / "model.gguf"
    tensors = [("new", [64], 99, 0), ("w", [1], 0, 64)]
    path.write_bytes(_file(tensors=tensors, data=bytes(range(64)) + struct.pack("<f", 5)))
    with milepost.open(path) as snapshot:
        assert snapshot.record("new").kind == "type 99 [64]"
        assert snapshot.read("new").tolist() == list(range(64))
        assert snapshot.read("w").tolist() == [5]


def _text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _file(keys=(), tensors=(), data=b"", version=3, counts=None):
    """A file, byte by byte."""
    tensor_count, key_count = counts or (len(tensors), len(keys))
    head = bytearray(b"GGUF" + struct.pack("<IQQ", version, tensor_count, key_count))
    for key, kind, value in keys:
        head += _text(key) + struct.pack("<I", kind) + value
    for name, sizes, kind, offset in tensors:
        head += _text(name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
        head += struct.pack("<IQ", kind, offset)
    return bytes(head) + bytes(-len(head) % 32) + data


def _aligned(value, kind=4, code="I"):
    key = ("general.alignment", kind, struct.pack("<" + code, value))
    return _file([key], [("w", [8], 0, 0)], bytes(32))


def _array(kind, count, content=b"", key="a"):
    return key, 9, struct.pack("<IQ", kind, count) + content


_NESTED = b"".join(struct.pack("<IQ", 9, 1) for _ in range(100))
_HUGE = 2**63
_HOSTILE = {
    "no version": b"GGUF",
    "cut in the counts": _file()[:20],
    "tensors without end": _file(counts=(2**64 - 1, 0)),
    "keys without end": _file(counts=(0, 2**64 - 1)),
    "a key of 2**63 bytes": _file(counts=(0, 1)) + struct.pack("<Q", _HUGE),
    "a key of 2**64 - 1 bytes": _file(counts=(0, 1)) + struct.pack("<Q", 2**64 - 1),
    "a value of 2**63 bytes": _file([("k", 8, struct.pack("<Q", _HUGE))]),
    "an array of 2**63 bytes": _file([_array(0, _HUGE)]),
    "an array of 2**61 numbers": _file([_array(10, 2**61)]),
    "an array of 2**64 - 1 texts": _file([_array(8, 2**64 - 1)]),
    "an array whose last text is long": _file(
        [_array(8, 100, _text("x") * 99 + struct.pack("<Q", 2**64 - 8))]
    ),
    "arrays in arrays": _file([("a", 9, _NESTED)]),
    "empty arrays in an array": _file([_array(9, 2**40, struct.pack("<IQ", 0, 0) * 50)]),
    "an unknown type of value": _file([("k", 13, bytes(8))]),
    "an array of an unknown type": _file([_array(77, 5, bytes(100))]),
    "a truth value of 2": _file([("k", 7, b"\2")]),
    "a key twice": _file([("k", 0, b"\1"), ("k", 0, b"\1")]),
    "a key of 20,000 bytes": _file([("k" * 20_000, 0, b"\1")]),
    "36 MB of texts": _file([(f"{i}", 8, _text("t" * 32_768)) for i in range(1_100)]),
    "1.3 million numbers": _file(
        [(f"{i}", 9, struct.pack("<IQ", 4, 64) + bytes(256)) for i in range(4_096)]
        + [_array(9, 5_000, (struct.pack("<IQ", 4, 64) + bytes(256)) * 5_000, key="z")]
    ),
    "an empty key": _file([("", 0, b"\1")]),
    "a key that is no text": _file([(b"\xff\xfe", 0, b"\1")]),
    "an alignment of 0": _aligned(0),
    "an alignment of 3": _aligned(3),
    "an alignment of 2**31": _aligned(2**31),
    "an alignment that is a text": _file([("general.alignment", 8, _text("32"))]),
    "an alignment below 0": _aligned(-32, 5, "i"),
    "65 axes": _file(tensors=[("w", [1] * 65, 0, 0)], data=bytes(32)),
    "2**32 - 1 axes": _file(counts=(1, 0)) + _text("w") + b"\xff\xff\xff\xff" + bytes(64),
    "sizes whose product wraps": _file(tensors=[("w", [2**32, 2**32], 0, 0)], data=bytes(32)),
    "a size below 0": _file(tensors=[("w", [2**64 - 1], 0, 0)], data=bytes(32)),
    "zeros that hide an overflow": _file(tensors=[("w", [0, 2**62, 2**62], 0, 0)], data=b""),
    "more than the file has": _file(tensors=[("w", [9], 0, 0)], data=bytes(32)),
    "an offset that wraps": _file(tensors=[("w", [8], 0, 2**64 - 32)], data=bytes(32)),
    "an offset off the alignment": _file(
        tensors=[("v", [1], 0, 0), ("w", [1], 0, 4)], data=bytes(64)
    ),
    "two in one place": _file(tensors=[("v", [8], 0, 0), ("w", [8], 0, 0)], data=bytes(32)),
    "a gap": _file(tensors=[("v", [8], 0, 0), ("w", [8], 0, 64)], data=bytes(96)),
    "a gap before": _file(tensors=[("v", [8], 0, 32)], data=bytes(64)),
    "more data than tensors": _file(tensors=[("v", [8], 0, 0)], data=bytes(33)),
    "one name twice": _file(tensors=[("w", [8], 0, 0), ("w", [8], 0, 32)], data=bytes(64)),
    "an empty name": _file(tensors=[("", [8], 0, 0)], data=bytes(32)),
    "a name with a line break": _file(tensors=[("a\nb", [8], 0, 0)], data=bytes(32)),
    "a name with half a character": _file(tensors=[(b"\xed\xa0\x80", [8], 0, 0)], data=bytes(32)),
    "rows that are no blocks": _file(tensors=[("w", [31], 2, 0)], data=bytes(32)),
    "blocks of no axis": _file(tensors=[("w", [], 2, 0)], data=bytes(32)),
    "an unknown type without room": _file(tensors=[("w", [8], 99, 0)], data=b""),
    "an unknown type in one place with another": _file(
        tensors=[("v", [8], 99, 0), ("w", [8], 0, 0)], data=bytes(32)
    ),
}


@pytest.mark.parametrize("name", _HOSTILE)
def test_hostile(tmp_path, name):
    path = tmp_path / "model.gguf"
    path.write_bytes(_HOSTILE[name])
    with soon(2), pytest.raises(DamagedError, match=r"model\.gguf"):
        milepost.open(path)


def test_versions(tmp_path):
    path = tmp_path / "model.gguf"
    for version, error in ((0, MilepostError), (1, UnknownFormatError), (4, VersionError)):
        path.write_bytes(_file(version=version))
        with pytest.raises(error):
            milepost.open(path)
    path.write_bytes(_file(version=2))
    assert list(milepost.open(path)) == []


def test_many_of_anything_takes_no_time(tmp_path):
    path = tmp_path / "model.gguf"
    many = {
        "texts": _file([_array(8, 2**23, bytes(8 * 2**23))]),
        "tensors": _file(tensors=[(f"{i}", [0], 0, 0) for i in range(1 << 17)]),
        "arrays": _file([_array(9, 2**21, struct.pack("<IQ", 0, 0) * 2**21)]),
        "keys": _file([(f"k{i}", 0, b"\0") for i in range(1 << 14)]),
    }
    for data in many.values():
        path.write_bytes(data)
        with soon(2.5):
            try:
                milepost.open(path).close()
            except DamagedError:
                pass
