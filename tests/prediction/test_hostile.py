"""Programs that ask for more than their weights and inputs."""

from __future__ import annotations

import base64
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import milepost
from milepost import errors
from tests.model.test_model_file import rewrite


@pytest.fixture
def path(digits, tmp_path):
    shutil.copy(digits, tmp_path / "model")
    return tmp_path / "model"


def put(path, change):
    """Change the graph of a file's program, as an attacker would."""

    def changed(body):
        data = base64.b64decode(body["program"]["data"])
        graph = onnx.ModelProto.FromString(data)
        other = change(graph) or graph
        data = other if isinstance(other, bytes) else other.SerializeToString()
        body["program"]["data"] = base64.b64encode(data).decode()

    rewrite(path, changed)


def elsewhere(tensor, *entries):
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in entries:
        tensor.external_data.add(key=key, value=value)


def stranger(*entries):
    tensor = TensorProto(name="stranger", data_type=1, dims=[1])
    elsewhere(tensor, *entries)
    return tensor


def reads_a_file(graph):
    graph.graph.initializer.append(stranger(("location", "/etc/passwd")))


def reads_by_our_mark(graph):
    graph.graph.initializer.append(stranger(("location", "leaf")))


def reads_without_a_place(graph):
    graph.graph.initializer.append(stranger())


def weight_from_a_file(graph):
    elsewhere(graph.graph.initializer[0], ("location", "../secret"))


def weight_with_two_places(graph):
    elsewhere(graph.graph.initializer[0], ("location", "leaf"), ("location", "secret"))


def weight_at_an_offset(graph):
    elsewhere(graph.graph.initializer[0], ("location", "leaf"), ("offset", "1"))


def constant_from_a_file(graph):
    value = stranger(("location", "/etc/passwd"))
    graph.graph.node.append(helper.make_node("Constant", [], ["c"], value=value))


def inner_graph_reads(graph):
    inner = helper.make_graph([], "inner", [], [])
    name = graph.graph.initializer[0].name
    tensor = TensorProto(name=name, data_type=1, dims=[1])
    elsewhere(tensor, ("location", "leaf"))  # the mark counts in the main graph only
    inner.initializer.append(tensor)
    node = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    graph.graph.node.append(node)


def sparse(graph):
    values = stranger(("location", "/etc/passwd"))
    graph.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, dims=[1]))


def own_operator(graph):
    graph.graph.node.append(helper.make_node("EPContext", [], ["z"], domain="com.microsoft"))


def own_function(graph):
    graph.functions.append(onnx.FunctionProto(name="f", domain="mine"))


def training(graph):
    graph.training_info.add()


@pytest.mark.parametrize(
    "change",
    [
        *(reads_a_file, reads_by_our_mark, reads_without_a_place, weight_from_a_file),
        *(weight_with_two_places, weight_at_an_offset, constant_from_a_file, inner_graph_reads),
        *(sparse, own_operator, own_function, training),
    ],
)
def test_what_reaches_outside_is_refused(path, change):
    put(path, change)
    with pytest.raises(errors.UntrustedError, match=f"the program in {path}.*refused"):
        milepost.load_program(path)


def ort_format(graph):
    return b"\x10\0\0\0ORTM" + b"\0" * 64


def hidden_tag(graph):
    """A field whose number only readers of 32 bits take for that of a weight."""
    tag = 1 << 32 | 5 << 3 | 2
    data = stranger(("location", "/etc/passwd")).SerializeToString()
    head = bytes([tag & 127 | 128, *[tag >> 7 * i & 127 | 128 for i in (1, 2, 3)], tag >> 28])
    inner = graph.graph.SerializeToString() + head + bytes([len(data)]) + data
    length = bytes([len(inner) & 127 | 128, len(inner) >> 7])
    assert len(data) < 128 <= len(inner) < 1 << 14
    graph.ClearField("graph")
    return graph.SerializeToString() + b"\x3a" + length + inner


def cut(graph):
    return graph.SerializeToString()[:-3]


def deep(graph):
    for _ in range(31):
        node = helper.make_node("If", ["x"], ["y"])
        node.attribute.add(name="then_branch", type=5).g.CopyFrom(graph.graph)
        del graph.graph.node[:]
        graph.graph.node.append(node)


def cyclic(graph):
    graph.graph.node[0].input[0] = graph.graph.output[0].name


def test_a_field_that_another_reader_takes_for_a_weight(path):
    put(path, hidden_tag)
    with pytest.raises(errors.DamagedError, match="no ONNX graph .a field of the number"):
        milepost.load_program(path)


@pytest.mark.parametrize("change", [ort_format, cut, deep, cyclic, lambda _: b"\xff" * 30])
def test_what_is_no_graph_is_damaged(path, change):
    put(path, change)
    with pytest.raises(errors.DamagedError, match=str(path)):
        milepost.load_program(path)


def edit(**fields):
    return lambda body: body["program"].update(fields)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (edit(kind="python"), errors.VersionError),
        (edit(kind="stablehlo"), errors.DamagedError),
        (edit(data="?"), errors.DamagedError),
        (edit(weights={}), errors.UntrustedError),
        (edit(weights={"a": "no such leaf"}), errors.DamagedError),
        (edit(weights=[]), errors.DamagedError),
        (edit(inputs=3), errors.DamagedError),
        (edit(tolerance="x"), errors.DamagedError),
    ],
)
def test_other_documents(path, change, error):
    rewrite(path, change)
    with pytest.raises(error):
        milepost.load_program(path)


@pytest.mark.parametrize(
    "change", [edit(inputs=["other"]), edit(outputs=["other"]), edit(outputs=[]), edit(inputs=[])]
)
def test_names_that_the_graph_does_not_have(path, change):
    rewrite(path, change)
    with pytest.raises(errors.DamagedError, match=str(path)):
        milepost.load_program(path)(np.ones((1, 1, 8, 8), "f"))


def fewer_outputs_in_the_example(body):
    body["example"]["outputs"] = {"list": []}


def no_dtype(body):
    body["signature"]["inputs"][0]["dtype"] = "banana"


@pytest.mark.parametrize("change", [fewer_outputs_in_the_example, no_dtype])
def test_what_is_said_of_it_does_not_fit(path, change):
    rewrite(path, change)
    with pytest.raises(errors.DamagedError, match="is damaged: .*(signature|dtype)"):
        milepost.load_program(path)


def test_a_weight_of_another_shape(path):
    def swap(body):
        weights = body["program"]["weights"]
        first, second = list(weights)[:2]
        weights[first], weights[second] = weights[second], weights[first]

    rewrite(path, swap)
    with pytest.raises(errors.DamagedError, match=str(path)):
        milepost.load_program(path)


def test_stablehlo_that_calls_a_function_of_the_process(tmp_path):
    import jax
    import jax.export

    from milepost.program import Program
    from milepost.runtimes import load

    def calls_python(x):
        return jax.pure_callback(lambda v: v, jax.ShapeDtypeStruct((2,), "float32"), x)

    def harmless(w, x):
        return jax.numpy.linalg.cholesky(w) @ x

    square, vector = (jax.ShapeDtypeStruct(s, "float32") for s in ((2, 2), (2,)))
    exported = jax.export.export(jax.jit(harmless))(square, vector)
    program = Program("stablehlo", bytes(exported.serialize()), {"w": "w"}, ("x",), ("y",))
    [found] = load(program, {"w": np.eye(2, dtype="f")}, "it")([np.array([3, 4], "f")])
    assert found.tolist() == [3, 4]

    text = '"stablehlo.custom_call"(%0) {call_target_name = "xla_python_cpu_callback"}'
    from milepost.runtimes.stablehlo import check

    with pytest.raises(errors.UntrustedError, match="in a form that is not known"):
        check(text, "it")
    lowered = jax.jit(calls_python).lower(vector).as_text()
    assert "custom_call" in lowered
    with pytest.raises(errors.UntrustedError, match="python_cpu_callback|refused"):
        check(lowered, "it")
