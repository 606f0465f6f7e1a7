"""TFLite models, as TensorFlow's converter writes them and its interpreter reads them."""

from __future__ import annotations

import os
import struct
import warnings

import flatbuffers
import ml_dtypes
import numpy as np
import pytest

import milepost
from milepost.errors import DamagedError, MilepostError, VersionError
from milepost.testing import FormatTests
from milepost.testing.mutation import read_through
from milepost.testing.watch import soon, watched

_CHANCE = np.random.default_rng(7)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A small model: as it is, with weights of 8 bits, wholly of 8 bits, and of 16."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow as tf

        import keras

        keras.utils.set_random_seed(7)
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1), batch_size=1),
                keras.layers.Conv2D(4, 3),
                keras.layers.Flatten(),
                keras.layers.Dense(20),
            ]
        )
        found = {}
        for name in ("float", "dynamic", "int8", "float16"):
            converter = tf.lite.TFLiteConverter.from_keras_model(model)
            if name != "float":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if name == "int8":
                values = _CHANCE.normal(size=(4, 1, 8, 8, 1)).astype(np.float32)
                converter.representative_dataset = lambda values=values: ([v] for v in values)
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            if name == "float16":
                converter.target_spec.supported_types = [tf.float16]
            found[name] = converter.convert()
    return found


def _interpreted(data):
    """The constants, and the scales of each, as TensorFlow's interpreter finds them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow as tf
        from tensorflow.lite.python import schema_py_generated as schema

        interpreter = tf.lite.Interpreter(
            model_content=data,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_REF,
        )
        interpreter.allocate_tensors()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    constant = {
        index
        for index, tensor in enumerate(model.subgraphs[0].tensors)
        if model.buffers[tensor.buffer].data is not None and len(model.buffers[tensor.buffer].data)
    }
    details = [d for d in interpreter.get_tensor_details() if d["index"] in constant]
    assert details
    return {d["name"]: (np.array(interpreter.get_tensor(d["index"])), d) for d in details}


class _Converted(FormatTests):
    variant = ""

    @pytest.fixture(autouse=True)
    def _converted(self, converted):
        self.data = bytes(converted[self.variant])

    def make(self, folder):
        path = folder / "model.tflite"
        path.write_bytes(self.data)
        return path, {name: value for name, (value, _) in _interpreted(self.data).items()}


class TestFloat(_Converted):
    variant = "float"


class TestDynamicRange(_Converted):
    variant = "dynamic"


class TestInteger(_Converted):
    variant = "int8"


class TestHalf(_Converted):
    variant = "float16"


@pytest.mark.parametrize("variant", ["dynamic", "int8"])
def test_dequantised(tmp_path, converted, variant):
    path = tmp_path / "model.tflite"
    path.write_bytes(converted[variant])
    seen = 0
    with milepost.open(path) as snapshot:
        whole = snapshot.dequantised()
        assert list(whole) == list(snapshot)
        for name, (value, detail) in _interpreted(bytes(converted[variant])).items():
            found = detail["quantization_parameters"]
            scales, points = found["scales"], found["zero_points"]
            if not len(scales):
                assert whole.spec(name) == snapshot.spec(name)
                continue
            seen += 1
            along = [1] * value.ndim
            if len(scales) > 1:
                along[found["quantized_dimension"]] = len(scales)
            expected = (value.astype(np.int64) - points.reshape(along)).astype(np.float32)
            expected *= scales.reshape(along)
            assert np.array_equal(whole.read(name), expected)
            assert np.array_equal(whole[name][1:3], expected[1:3])
            assert "scale" in snapshot.record(name).kind
        assert snapshot.facts()["quantised"] == seen > 0


def test_the_dequantised_weights_are_near_those_of_the_model(tmp_path, converted):
    found = {}
    for variant in ("float", "int8"):
        path = tmp_path / f"{variant}.tflite"
        path.write_bytes(converted[variant])
        with milepost.open(path) as snapshot:
            whole = snapshot.dequantised()
            arrays = [whole.read(n) for n in whole if snapshot.spec(n).shape == (20, 144)]
            found[variant] = arrays[0]
    assert np.abs(found["float"] - found["int8"]).max() < 0.01


# What follows is built table by table: (number of the field, how to add it, value).


def _table(builder, fields):
    builder.StartObject(12)
    for number, kind, value in fields:
        if kind == "offset":
            builder.PrependUOffsetTRelativeSlot(number, value, 0)
        else:
            getattr(builder, f"Prepend{kind}Slot")(number, value, 0)
    return builder.EndObject()


def _numbers(builder, values, dtype):
    return builder.CreateNumpyVector(np.array(values, dtype))


def _offsets(builder, values):
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependUOffsetTRelative(value)
    return builder.EndVector()


def _model(*graphs, behind=None):
    """A model of graphs (name, tensors); a tensor is (name, shape, type, data, scale, axis)."""
    builder = flatbuffers.Builder(1024)
    buffers = [_table(builder, [])]
    made = []
    for graph_name, tensors in graphs:
        entries = []
        for name, shape, kind, data, *rest in tensors:
            number = 0
            if data is not None:
                number = len(buffers)
                if behind:
                    fields = [(1, "Uint64", behind), (2, "Uint64", len(data))]
                else:
                    fields = [(0, "offset", _numbers(builder, list(data), np.uint8))]
                buffers.append(_table(builder, fields))
            fields = [
                (0, "offset", _numbers(builder, shape, np.int32)),
                (1, "Int8", kind),
                (2, "Uint32", number),
                (3, "offset", builder.CreateString(name)),
            ]
            if rest:
                scales, points, axis = rest
                quantised = [
                    (2, "offset", _numbers(builder, scales, np.float32)),
                    (3, "offset", _numbers(builder, points, np.int64)),
                    (6, "Int32", axis),
                ]
                fields.append((4, "offset", _table(builder, quantised)))
            entries.append(_table(builder, fields))
        fields = [(0, "offset", _offsets(builder, entries))]
        if graph_name:
            fields.append((4, "offset", builder.CreateString(graph_name)))
        made.append(_table(builder, fields))
    fields = [
        (0, "Uint32", 3),
        (2, "offset", _offsets(builder, made)),
        (4, "offset", _offsets(builder, buffers)),
    ]
    builder.Finish(_table(builder, fields), b"TFL3")
    return bytes(builder.Output())


def _strings(*texts):
    offsets = np.cumsum([8 + 4 * len(texts), *map(len, texts)], dtype="<i4")
    return struct.pack("<i", len(texts)) + offsets.tobytes() + b"".join(texts)


_PACKED = bytes([0x21, 0xF3, 0x07])


class TestTypes(FormatTests):
    """What the converter does not write for so small a model."""

    def make(self, folder):
        tensors, expected = [], {}
        plain = {0: "f4", 1: "f2", 2: "i4", 3: "u1", 4: "i8", 7: "i2", 8: "c8", 9: "i1", 10: "f8"}
        plain |= {11: "c16", 12: "u8", 15: "u4", 16: "u2", 6: "?"}
        for number, code in plain.items():
            value = _CHANCE.integers(0, 2, (2, 3)).astype(code)
            tensors.append((f"of {number}", [2, 3], number, value.tobytes()))
            expected[f"of {number}"] = value
        half = np.array([1.5, -2], ml_dtypes.bfloat16)
        four = np.array([1, 2, 3, -1, 7], np.int8).astype(ml_dtypes.int4)
        texts = np.empty((2, 1), object)
        texts[:, 0] = [b"first", b""]
        tensors += [
            ("half", [2], 18, half.tobytes()),
            ("four", [5], 17, _PACKED),
            ("texts", [2, 1], 5, _strings(b"first", b"")),
            ("text", [], 5, _strings(b"alone")),
            ("scalar", [], 0, struct.pack("<f", 2)),
            ("twice", [1], 9, b"\1"),
            ("twice", [1], 9, b"\2"),
            ("", [1], 9, b"\3"),
            ("computed", [5], 0, None),
        ]
        expected |= {"half": half, "four": four, "texts": texts, "text": b"alone"}
        expected |= {"scalar": np.array(2, "f4"), f"tensor_{len(tensors) - 2}": np.int8([3])}
        expected |= {"twice": np.int8([1]), "twice#2": np.int8([2])}
        path = folder / "model.tflite"
        path.write_bytes(_model(("main", tensors)))
        return path, expected


class TestSubgraphs(FormatTests):
    def make(self, folder):
        path = folder / "model.tflite"
        graphs = [(name, [("w", [1], 9, bytes([i]))]) for i, name in enumerate(["a", "", "a"])]
        path.write_bytes(_model(*graphs))
        return path, {n: np.int8([i]) for i, n in enumerate(["a/w", "subgraph_1/w", "a#2/w"])}


def test_four_bits_are_dequantised_along_an_axis(tmp_path):
    path = tmp_path / "model.tflite"
    data = bytes([0x21, 0xF3])
    path.write_bytes(_model(("", [("w", [2, 2], 17, data, [0.5, 2], [0, 1], 1)])))
    with milepost.open(path) as snapshot:
        assert snapshot.record("w").kind == "int4, 2 scales along axis 1"
        assert snapshot.dequantised().read("w").tolist() == [[0.5, 2], [1.5, -4]]


def test_data_behind_the_tables(tmp_path):
    path = tmp_path / "model.tflite"
    with path.open("wb") as file:  # with a hole in it
        file.write(_model(("", [("w", [3], 9, b"123")]), behind=5 << 30))
        file.seek(5 << 30)
        file.write(b"123")
    with soon(0.15), milepost.open(path) as snapshot:
        assert snapshot.read("w").tobytes() == b"123"


def _one(shape=(3,), kind=9, data=b"123", name="w", *rest):
    return _model(("", [(name, shape, kind, data, *rest)]))


def _patched(position, code, value):
    data = bytearray(_one())
    struct.pack_into(code, data, position, value)
    return bytes(data)


def _vtable(code, value, at):
    data = bytearray(_one())
    (root,) = struct.unpack_from("<I", data)
    (back,) = struct.unpack_from("<i", data, root)
    struct.pack_into(code, data, root - back + at, value)
    return bytes(data)


_DAMAGED = {
    "a root outside": _patched(0, "<I", 2**32 - 1),
    "a root at the end": _patched(0, "<I", len(_one()) - 2),
    "a root in a circle": _patched(0, "<I", 0),
    "nothing else": b"\x08\0\0\0TFL3",
    "a vtable of no length": _vtable("<H", 0, 0),
    "a vtable of odd length": _vtable("<H", 7, 0),
    "a vtable without end": _vtable("<H", 0xFFFE, 0),
    "a table of no length": _vtable("<H", 0, 2),
    "a field outside of its table": _vtable("<H", 0xFFFF, 8),
    "a field in its table's head": _vtable("<H", 2, 8),
    "data shorter than the shape": _one([4]),
    "data longer than the shape": _one([2]),
    "a size below 0": _one([-1]),
    "sizes whose product wraps": _one([2**31 - 1] * 4),
    "zeros that hide an overflow": _one([0] + [2**31 - 1] * 4),
    "65 axes": _one([1] * 65),
    "a name with a line break": _one(name="a\nb"),
    "a buffer behind the file": _model(("", [("w", [3], 9, b"123")]), behind=2**40),
    "a buffer that wraps": _model(("", [("w", [3], 9, b"123")]), behind=2**64 - 1),
    "too few bytes for strings": _one([100], 5, _strings(b"a")),
}


@pytest.mark.parametrize("name", _DAMAGED)
def test_damaged(tmp_path, name):
    path = tmp_path / "model.tflite"
    path.write_bytes(_DAMAGED[name])
    with soon(2), pytest.raises(DamagedError):
        milepost.open(path)


def test_a_type_of_the_future(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(_one(kind=99))
    with pytest.raises(VersionError, match="99"):
        milepost.open(path)


def test_strings_outside_of_their_tensor(tmp_path):
    path = tmp_path / "model.tflite"
    for numbers in ((2, 16, 15, 20), (2, 16, 17, 99), (3, 16, 17, 18), (2, 0, 1, 2), (2, -1, 0, 1)):
        path.write_bytes(_one([2], 5, struct.pack("<4i", *numbers) + b"abcd"))
        with milepost.open(path) as snapshot, pytest.raises(DamagedError):
            snapshot.read("w")


@pytest.mark.parametrize("name", [1, 16_000])
@pytest.mark.parametrize("channels", [60, 1 << 20])
def test_one_table_many_times_takes_neither_time_nor_memory(tmp_path, name, channels):
    builder = flatbuffers.Builder(1024)
    buffer = _table(builder, [(0, "offset", _numbers(builder, [0], np.uint8))])
    fields = [(2, "offset", _numbers(builder, np.ones(channels), np.float32))]
    quantised = _table(builder, fields)
    fields = [(2, "Uint32", 1), (1, "Int8", 9), (4, "offset", quantised)]
    fields.append((3, "offset", builder.CreateString("n" * name)))
    tensor = _table(builder, fields)
    graph = _table(builder, [(0, "offset", _offsets(builder, [tensor] * 60_000))])
    fields = [
        (2, "offset", _offsets(builder, [graph] * 100)),
        (4, "offset", _offsets(builder, [_table(builder, []), buffer])),
    ]
    builder.Finish(_table(builder, fields), b"TFL3")
    path = tmp_path / "model.tflite"
    path.write_bytes(bytes(builder.Output()))
    with watched(tmp_path), pytest.raises(MilepostError):
        milepost.open(path)


def test_every_byte_changed_raises_only_errors_of_ours(tmp_path):
    path = tmp_path / "model.tflite"
    data = _one([3], 9, b"123", "w", [0.5], [1], 0)
    for position in range(0, len(data)):
        for value in (0, 1, 0x7F, 0x80, 0xFF):
            path.write_bytes(data[:position] + bytes([value]) + data[position + 1 :])
            read_through(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MilepostError):
        milepost.open(tmp_path / "pipe")
