"""ONNX models, as the packages `onnx` and `torch.onnx` write them."""

from __future__ import annotations

import os
import struct

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import milepost
from milepost.errors import DamagedError, MilepostError, UntrustedError, VersionError
from milepost.formats.onnx_tensors import TYPES
from milepost.testing import FormatTests
from milepost.testing.watch import soon

_CHANCE = np.random.default_rng(7)


def _model(initializers, nodes=(), sparse=(), **options):
    graph = helper.make_graph(
        list(nodes) or [helper.make_node("Identity", ["x"], ["y"], name="same")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        list(initializers),
        sparse_initializer=list(sparse),
    )
    return helper.make_model(graph, producer_name="tests", producer_version="1", **options)


def _save(path, model):
    path.write_bytes(model.SerializeToString())
    return path


def _array(tensor, folder=""):
    """What onnx itself finds; strings as bytes, and one alone as a plain value."""
    if tensor.data_type == TensorProto.STRING:
        values = np.array([*tensor.string_data, None], object)[:-1].reshape(tensor.dims)
        return values if values.ndim else values.item()
    return numpy_helper.to_array(tensor, str(folder))


def _expected(path):
    model = onnx.load(path)
    return {t.name: _array(t) for t in model.graph.initializer}


def _values(number, shape):
    """Values of a type: small whole numbers, which every type has."""
    dtype = helper.tensor_dtype_to_np_dtype(number)
    if dtype.kind == "c":
        return (_CHANCE.normal(size=shape) + 1j * _CHANCE.normal(size=shape)).astype(dtype)
    return _CHANCE.integers(0, 2, shape).astype(dtype)


_NUMBERS = [number for number in TYPES if number != TensorProto.STRING]


class TestRaw(FormatTests):
    """Every type, as raw bytes."""

    def make(self, folder):
        tensors = [
            numpy_helper.from_array(_values(number, (3, 5)), f"layer.{number}")
            for number in _NUMBERS
        ]
        tensors += [
            numpy_helper.from_array(np.float32(1.5), "scalar"),
            numpy_helper.from_array(np.zeros((0, 4), np.float32), "empty"),
            numpy_helper.from_array(_CHANCE.normal(size=(50, 70)).astype(np.float32), "weight"),
        ]
        path = _save(folder / "model.onnx", _model(tensors))
        return path, _expected(path)


class TestTyped(FormatTests):
    """Every type, in the field that is its own."""

    def make(self, folder):
        tensors = []
        for number in _NUMBERS:
            values = _values(number, (3, 5))
            tensors.append(helper.make_tensor(f"layer.{number}", number, (3, 5), values.ravel()))
        tensors += [
            helper.make_tensor("negative", TensorProto.INT64, (3,), [-1, 2**62, -(2**63)]),
            helper.make_tensor("small", TensorProto.INT8, (3,), [-128, 127, -1]),
            helper.make_tensor("large", TensorProto.UINT64, (2,), [2**64 - 1, 0]),
            helper.make_tensor("zero", TensorProto.FLOAT, (0,), []),
            helper.make_tensor("none", TensorProto.INT64, (2, 0), []),
            helper.make_tensor("texts", TensorProto.STRING, (2, 2), [b"a", b"", b"\xff", b"d"]),
            helper.make_tensor("text", TensorProto.STRING, (), [b"one"]),
        ]
        path = _save(folder / "model.onnx", _model(tensors))
        return path, _expected(path)


class TestExternal(FormatTests):
    renames = False

    def make(self, folder):
        tensors = [
            numpy_helper.from_array(_CHANCE.normal(size=(40, 30)).astype(np.float32), "weight"),
            numpy_helper.from_array(np.arange(5, dtype=np.int64), "bias"),
            numpy_helper.from_array(_values(TensorProto.INT4, (7, 3)), "packed"),
        ]
        (folder / "inner").mkdir()
        path = folder / "inner" / "model.onnx"
        onnx.save_model(
            _model(tensors),
            path,
            save_as_external_data=True,
            location="model.onnx_data",
            size_threshold=0,
        )
        return path, _expected(path)


class TestOneFileForEach(FormatTests):
    renames = False

    def make(self, folder):
        tensors = [
            numpy_helper.from_array(np.full((4, 3), i, np.float32), f"w{i}") for i in range(20)
        ]
        (folder / "inner").mkdir()
        path = folder / "inner" / "model.onnx"
        onnx.save_model(
            _model(tensors),
            path,
            save_as_external_data=True,
            all_tensors_to_one_file=False,
            size_threshold=0,
        )
        return path, _expected(path)


def _subgraph(value, name="weight"):
    tensor = numpy_helper.from_array(np.full(3, value, np.float32), name)
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, [3])
    node = helper.make_node("Identity", [name], ["out"])
    return helper.make_graph([node], "branch", [], [output], [tensor])


class TestGraphsInNodes(FormatTests):
    def make(self, folder):
        def branch(first, second, name):
            return helper.make_node(
                "If",
                ["c"],
                ["y"],
                name=name,
                then_branch=_subgraph(first),
                else_branch=_subgraph(second),
            )

        tensor = numpy_helper.from_array(np.zeros(3, np.float32), "weight")
        nodes = [branch(1, 2, "decide"), branch(3, 4, ""), branch(5, 6, "decide")]
        path = _save(folder / "model.onnx", _model([tensor], nodes))
        names = ["decide", "If_2", "decide#2"]
        expected = {
            f"{name}/{side}_branch/weight": np.full(3, 2 * i + j + 1, np.float32)
            for i, name in enumerate(names)
            for j, side in enumerate(("then", "else"))
        }
        return path, {"weight": np.zeros(3, np.float32), **expected}


class TestSparse(FormatTests):
    def make(self, folder):
        values = numpy_helper.from_array(np.float32([1, 2, 3]), "sparse")
        indices = numpy_helper.from_array(np.int64([0, 5, 7]), "")
        sparse = helper.make_sparse_tensor(values, indices, [3, 4])
        path = _save(folder / "model.onnx", _model([], sparse=[sparse]))
        with milepost.open(path) as snapshot:
            assert snapshot.facts()["sparse"] == {"sparse": [3, 4]}
        return path, {
            "sparse/values": np.float32([1, 2, 3]),
            "sparse/indices": np.int64([0, 5, 7]),
        }


class TestConstants(FormatTests):
    """Paddle's exporter has all weights in nodes, and PyTorch's a few numbers."""

    def make(self, folder):
        def constant(array, output, tensor_name=""):
            value = numpy_helper.from_array(array, tensor_name)
            return helper.make_node("Constant", [], [output], value=value)

        weight = _CHANCE.normal(size=(60, 70)).astype(np.float32)  # longer than a short node
        inner = helper.make_graph(
            [constant(np.float32([7, 8]), "out")],
            "branch",
            [],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, [2])],
        )
        sparse = helper.make_sparse_tensor(
            numpy_helper.from_array(np.float32([1, 2]), "values"),
            numpy_helper.from_array(np.int64([0, 5]), "indices"),
            [3, 4],
        )
        nodes = [
            constant(weight, "conv.weight", "another name"),
            constant(np.int64(-3), "axis"),
            constant(np.array([b"a", b"bc"], object), "texts"),
            helper.make_node("Constant", [], ["few"], sparse_value=sparse),
            helper.make_node("Constant", [], ["plain"], value_floats=[1.0, 2.0]),
            helper.make_node("ConstantOfShape", ["axis"], ["zeros"]),
            helper.make_node("If", ["c"], ["y"], "decide", then_branch=inner, else_branch=inner),
        ]
        tensor = numpy_helper.from_array(np.zeros(3, np.float32), "bias")
        path = _save(folder / "model.onnx", _model([tensor], nodes))
        return path, {
            "bias": np.zeros(3, np.float32),
            "conv.weight": weight,
            "axis": np.array(-3),
            "texts": np.array([b"a", b"bc"], object),
            "few/values": np.float32([1, 2]),
            "few/indices": np.int64([0, 5]),
            "decide/then_branch/out": np.float32([7, 8]),
            "decide/else_branch/out": np.float32([7, 8]),
        }


def test_a_model_of_many_constants(tmp_path):
    value = numpy_helper.from_array(np.float32([1]))
    names = [f"/layer.{number}/Constant_output_0" for number in range(30_000)]
    nodes = [helper.make_node("Constant", [], [name], name=name, value=value) for name in names]
    path = _save(tmp_path / "model.onnx", _model([], nodes))
    with milepost.open(path) as snapshot:
        assert list(snapshot) == names


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 5)
    )
    path = tmp_path_factory.mktemp("torch") / "model.onnx"
    with pytest.warns() as _:
        torch.onnx.export(model, (torch.zeros(1, 1, 8, 8),), path, dynamo=False)
    return path


class TestTorch(FormatTests):
    @pytest.fixture(autouse=True)
    def _exported(self, exported):
        self.exported = exported

    def make(self, folder):
        path = folder / "model.onnx"
        path.write_bytes(self.exported.read_bytes())
        return path, _expected(path)


def test_facts(tmp_path):
    weight = numpy_helper.from_array(np.zeros(3, np.float32), "weight")
    model = _model([weight], opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"author": "somebody"})
    # As before IR version 4: an initialiser is an input, too.
    model.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [3]))
    with milepost.open(_save(tmp_path / "model.onnx", model)) as snapshot:
        facts = snapshot.facts()
    assert facts["producer"] == "tests 1"
    assert facts["ir_version"] == 8
    assert facts["opsets"] == {"ai.onnx": 17}
    assert facts["properties"] == {"author": "somebody"}
    assert facts["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 4, None]}]
    assert facts["outputs"] == [{"name": "y", "dtype": "float32", "shape": [2, 4]}]


def test_types_are_those_of_onnx():
    known = {n: helper.tensor_dtype_to_np_dtype(n) for n in TYPES if n != TensorProto.STRING}
    assert set(TYPES) == set(TensorProto.DataType.values()) - {0}
    assert {n: np.dtype(dtype).name for n, dtype in known.items()} == {
        n: kind.dtype for n, kind in TYPES.items() if n in known
    }


def test_a_large_file_is_opened_by_its_description(tmp_path):
    path = tmp_path / "model.onnx"
    model = _model([numpy_helper.from_array(np.zeros(1, np.float32), "after")])
    size = 2 << 30
    tensor = TensorProto(name="large", data_type=TensorProto.FLOAT, dims=[size // 4])
    tensor = tensor.SerializeToString() + b"\x4a" + _varint(size)
    graph = b"\x2a" + _varint(len(tensor) + size) + tensor
    rest = model.graph.SerializeToString()
    model.ClearField("graph")
    head = model.SerializeToString() + b"\x3a" + _varint(len(graph) + size + len(rest)) + graph
    with path.open("wb") as file:  # with a hole in it
        file.write(head)
        file.seek(size, os.SEEK_CUR)
        file.write(rest)
    with soon(0.15), milepost.open(path) as snapshot:
        assert snapshot.spec("large").shape == (size // 4,)
        assert snapshot["large"][-2:].tolist() == [0, 0]
        assert snapshot.read("after").tolist() == [0]


def test_numbers_of_no_fixed_length_are_read_part_after_part(tmp_path):
    values = _CHANCE.integers(-(2**63), 2**63 - 1, 3_000_000) >> _CHANCE.integers(0, 64, 3_000_000)
    tensor = TensorProto(name="w", data_type=TensorProto.INT64, dims=[3000, 1000])
    tensor.int64_data.extend(values.tolist())
    path = _save(tmp_path / "model.onnx", _model([tensor]))
    values = values.reshape(3000, 1000)
    with milepost.open(path) as snapshot:
        parts = [part.ravel() for _, part in snapshot.read_parts("w")]
        assert len(parts) > 1
        assert np.array_equal(np.concatenate(parts), values.ravel())
        assert np.array_equal(snapshot["w"][2000:2010, 3:5], values[2000:2010, 3:5])


def _varint(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _field(number, value):
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value & (2**64 - 1))
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _tensor(*fields, name=b"w"):
    return b"".join(_field(n, v) for n, v in ((8, name), *fields))


def _file(*tensors, graph=b""):
    content = graph + b"".join(_field(5, tensor) for tensor in tensors)
    return _field(1, 8) + _field(2, b"tests") + _field(7, content)


def test_unpacked_numbers(tmp_path):
    """A reader must take either form, whatever writers do."""
    path = tmp_path / "model.onnx"
    floats = b"".join(_varint(4 << 3 | 5) + struct.pack("<f", value) for value in (1, 2, 3))
    numbers = b"".join(_field(7, value) for value in (5, -6)) + _field(7, b"\x07\x08")
    path.write_bytes(
        _file(
            _tensor((1, b"\x03"), (2, 1)) + floats,
            _tensor((1, 2), (1, 2), (2, 7), name=b"n") + numbers,
        )
    )
    with milepost.open(path) as snapshot:
        assert snapshot.read("w").tolist() == [1, 2, 3]
        assert snapshot.read("n").tolist() == [[5, -6], [7, 8]]


def _nested(depth):
    graph = b""
    for _ in range(depth):
        attribute = _field(1, b"body") + _field(6, graph) + _field(20, 5)
        graph = _field(1, _field(4, b"Loop") + _field(5, attribute))
    return graph


def _inside(name, *tensors):
    """A node with a graph of tensors."""
    graph = b"".join(_field(5, tensor) for tensor in tensors)
    attribute = _field(1, b"body") + _field(6, graph) + _field(20, 5)
    return _field(1, _field(3, name) + _field(4, b"Loop") + _field(5, attribute))


_FLOATS_3 = ((1, 3), (2, 1))
_WEIGHT = _field(5, _tensor(*_FLOATS_3, (9, bytes(12))))
_CONSTANT = _field(1, _field(2, b"w") + _field(4, b"Constant") + _field(5, _WEIGHT))
_DAMAGED = {
    "two graphs": _file() + _field(7, b""),
    "a graph that ends behind the file": _file(_tensor(*_FLOATS_3, (9, bytes(12))))[:-2],
    "a length that wraps": _file() + b"\x32" + _varint(2**64 - 1),
    "a length of 2**63": _file(_tensor(*_FLOATS_3) + b"\x4a" + _varint(2**63)),
    "a number without an end": _file(_tensor(*_FLOATS_3) + b"\x10" + b"\xff" * 11),
    "a group": _file(b"\x0b\x0c"),
    "no name": _file(_tensor(*_FLOATS_3, (9, bytes(12)), name=b"")),
    "a name with a line break": _file(_tensor(*_FLOATS_3, (9, bytes(12)), name=b"a\nb")),
    "a name that is no text": _file(_tensor(*_FLOATS_3, (9, bytes(12)), name=b"\xff")),
    "a name of a megabyte": _file(_tensor(*_FLOATS_3, (9, bytes(12)), name=b"n" * (1 << 20))),
    "one name twice": _file(*[_tensor(*_FLOATS_3, (9, bytes(12)))] * 2),
    "too few bytes": _file(_tensor(*_FLOATS_3, (9, bytes(11)))),
    "too many bytes": _file(_tensor(*_FLOATS_3, (9, bytes(16)))),
    "no bytes": _file(_tensor(*_FLOATS_3)),
    "too few floats": _file(_tensor(*_FLOATS_3, (4, bytes(8)))),
    "too few numbers": _file(_tensor((1, 3), (2, 7), (7, b"\1\2"))),
    "too many numbers": _file(_tensor((1, 3), (2, 7), (7, bytes(31)))),
    "too few strings": _file(_tensor((1, 3), (2, 8), (6, b"a"))),
    "a size below 0": _file(_tensor((1, -1), (2, 1), (9, b""))),
    "sizes whose product wraps": _file(_tensor((1, 2**32), (1, 2**32), (2, 1), (9, b""))),
    "zeros that hide an overflow": _file(_tensor((1, 0), (1, 2**62), (1, 2**62), (2, 1), (9, b""))),
    "1000 axes": _file(_tensor(*[(1, 1)] * 1000, (2, 1), (9, bytes(4)))),
    "a shape of a megabyte": _file(_tensor((1, b"\1" * (1 << 20)), (2, 1), (9, bytes(4)))),
    "segments": _file(_tensor(*_FLOATS_3, (3, b""), (9, bytes(12)))),
    "graphs in graphs": _file(graph=_nested(200)),
    "the name of a constant twice": _file(_tensor(*_FLOATS_3, (9, bytes(12))), graph=_CONSTANT),
    "a sparse tensor without indices": _file(graph=_field(15, _field(1, _tensor(*_FLOATS_3)))),
    "external without a file": _file(
        _tensor(*_FLOATS_3, (13, _field(1, b"location") + _field(2, b"gone")), (14, 1))
    ),
    "a name that is in the names of 9000 tensors": _file(
        graph=_inside(b"n" * 8000, *[_tensor((1, 0), (2, 1), name=b"%d" % i) for i in range(9000)])
    ),
    "60,000 tensors": _file(*[_tensor((1, 0), (2, 1), name=b"%d" % i) for i in range(60_000)]),
    "tensors without end": _file(
        *[_tensor((1, 0), (2, 1), name=b"%d" % i) for i in range(400_000)]
    ),
}


@pytest.mark.parametrize("name", _DAMAGED)
def test_damaged(tmp_path, name):
    path = tmp_path / "model.onnx"
    path.write_bytes(_DAMAGED[name])
    with soon(3), pytest.raises(DamagedError):
        milepost.open(path)


def test_values_in_many_pieces_are_read_once(tmp_path):
    """A part of them takes the pieces of that part, not all."""
    values = _CHANCE.integers(0, 256, 24 << 20, np.uint8)
    pieces = [_field(4, values[i : i + 320].tobytes()) for i in range(0, len(values), 320)]
    tensor = _tensor((1, len(values) // 4), (2, 1)) + b"".join(pieces)
    path = tmp_path / "model.onnx"
    path.write_bytes(_file(tensor))
    with milepost.open(path) as snapshot:
        with soon(1):
            assert snapshot.read("w").tobytes() == values.tobytes()
        assert snapshot["w"][79:161].tobytes() == values[316:644].tobytes()


def test_numbers_that_do_not_end_are_found_when_they_are_read(tmp_path):
    path = tmp_path / "model.onnx"
    for data in (b"\1\2\x83", b"\1\2" + b"\x80" * 20 + b"\1", b"\1\2\3\4"):
        path.write_bytes(_file(_tensor((1, 3), (2, 7), (7, data))))
        with milepost.open(path) as snapshot, pytest.raises(DamagedError):
            snapshot.read("w")


def test_a_type_of_the_future(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(_file(_tensor((1, 3), (2, 99), (9, bytes(12)))))
    with pytest.raises(VersionError, match="99"):
        milepost.open(path)


def _external(location, **entries):
    entries = {"location": location, **entries}
    pairs = [(13, _field(1, k.encode()) + _field(2, v.encode())) for k, v in entries.items()]
    return _file(_tensor(*_FLOATS_3, *pairs, (14, 1)))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(12))
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    (folder / "data").write_bytes(struct.pack("<3f", 1, 2, 3))
    (folder / "sub" / "data").write_bytes(struct.pack("<3f", 4, 5, 6))
    return folder


_ESCAPES = (
    *("../secret", "/etc/passwd", "sub/../../secret", "sub/../data", "./data", "", ".", ".."),
    *("/proc/self/mem", "C:\\data", "sub\\data", "sub//data", "data\0", "link", "link/passwd"),
    *("folders", "data/", "/dev/zero", "a" * 3 + "/" * 3),
)


@pytest.mark.parametrize("location", _ESCAPES)
def test_files_outside_of_the_folder_are_not_read(folder, location):
    (folder / "link").symlink_to("../secret" if location == "link" else "/etc")
    (folder / "folders").symlink_to("..")
    path = folder / "model.onnx"
    path.write_bytes(_external(location))
    with pytest.raises(UntrustedError, match="do not trust"):
        milepost.open(path)


def test_files_that_are_no_files_are_not_read(folder):
    path = folder / "model.onnx"
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    for location in ("pipe", "sub", "loop", "data/data", "n" * 5000, "gone"):
        path.write_bytes(_external(location))
        with pytest.raises(MilepostError):
            milepost.open(path)


def test_places_in_other_files(folder):
    path = folder / "model.onnx"
    (folder / "inside").symlink_to("data")
    for location, expected in (("data", [1, 2, 3]), ("sub/data", [4, 5, 6]), ("inside", [1, 2, 3])):
        path.write_bytes(_external(location))
        with milepost.open(path) as snapshot:
            assert snapshot.read("w").tolist() == expected
    for entries in (
        {"offset": "1"},
        {"length": "11"},
        {"length": "16"},
        {"offset": "-4", "length": "12"},
        {"offset": "0x0"},
        {"offset": "9" * 30},
        {"offset": "9223372036854775807", "length": "12"},
        {"length": "1" * 5000},
    ):
        path.write_bytes(_external("data", **entries))
        with pytest.raises(DamagedError):
            milepost.open(path)


def test_a_hub_cache_of_links_is_read(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "1").write_bytes(_external("model.onnx_data"))
    (blobs / "2").write_bytes(struct.pack("<3f", 1, 2, 3))
    (snapshot / "model.onnx").symlink_to("../../blobs/1")
    (snapshot / "model.onnx_data").symlink_to("../../blobs/2")
    with milepost.open(snapshot / "model.onnx") as opened:
        assert opened.read("w").tolist() == [1, 2, 3]


def test_what_is_no_model_is_not_taken_for_one(tmp_path):
    path = tmp_path / "file"
    saved_model = _field(1, 1) + _field(2, b"\x0a\x03abc")
    for data in (b"\x08", b"\x08\x01", saved_model, b"\x08\x01\x3a", b"\x08\x01\x3a\x02\xff\xff"):
        path.write_bytes(data)
        with pytest.raises(MilepostError) as caught:
            milepost.open(path)
        assert "ONNX" not in str(caught.value)


def test_ml_dtypes_are_there():
    assert ml_dtypes.int4
