"""ONNX graphs, run by onnxruntime on the CPU.

A weight is an initialiser of the main graph without data: its place is given as external, and
what stands there is handed to the session. Nothing else may be external: a graph that names a
file, another domain's operators or functions of its own is refused before onnxruntime sees it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from milepost.dtypes import Array
from milepost.encodings.protobuf import fields
from milepost.errors import DamagedError, MissingPackageError, UntrustedError, UsageError
from milepost.program import Program
from milepost.runtimes import Run

# What stands where the name of a weight's file would.
LOCATION = "leaf"

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
_MAX_DEPTH = 30  # of graphs inside graphs
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16

# The fields, by message, in which a message of interest may lie.
# https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "weight", 15: "sparse"},
    "inner graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {
        **{5: "tensor", 10: "tensor", 6: "inner graph", 11: "inner graph"},
        **{22: "sparse", 23: "sparse"},
    },
    "sparse": {1: "tensor", 2: "tensor"},
}
_FORBIDDEN = {("model", 20): "training information", ("model", 25): "functions of its own"}
_NODE_DOMAIN = 7
_TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_PLACE = 8, 13, 14


def load(program: Program, weights: Mapping[str, Array], name: str) -> Run:
    try:
        check(program.data, weights.keys(), name)
    except ValueError as error:
        if isinstance(error, UntrustedError):
            raise
        raise DamagedError(f"{name} is damaged: its program is no ONNX graph ({error})") from None
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(
            f"the program in {name} runs with onnxruntime, which cannot be imported ({error}): "
            'pip install "milepost[predict]"'
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors are raised, and told by us
    # Else it would take bytes of its own format, which `check` cannot read.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    values = [_value(onnxruntime, array) for array in weights.values()]
    options.add_external_initializers(list(weights), values)
    try:
        session = onnxruntime.InferenceSession(
            program.data, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors have no other common class
        raise DamagedError(f"onnxruntime refuses the program in {name}: {error}") from error
    for kind, names, found in (
        ("inputs", program.inputs, session.get_inputs()),
        ("outputs", program.outputs, session.get_outputs()),
    ):
        if sorted(names) != sorted(item.name for item in found):
            raise DamagedError(f"{name} is damaged: its program has other {kind} than {names}")

    # The session may compute on the weights' own memory: they live as long as it does.
    def run(inputs: Sequence[Array], _weights: Any = values) -> list[Array]:
        given = dict(zip(program.inputs, inputs, strict=True))
        try:
            return [np.asarray(out) for out in session.run(list(program.outputs), given)]
        except Exception as error:
            raise UsageError(f"the program in {name} cannot take these inputs: {error}") from error

    return run


def _value(onnxruntime: Any, array: Array) -> Any:
    make = onnxruntime.OrtValue
    if array.dtype.name == "bfloat16":
        return make.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BFLOAT16)
    return make.ortvalue_from_numpy(np.ascontiguousarray(array).reshape(array.shape))


def check(graph: bytes, weights: Collection[str], name: str) -> None:
    """Make sure that all a graph has to read is in it, or among its weights.

    Raises:
        UntrustedError: it is not.
        ValueError: it is no graph.
    """
    for kind, message in _messages("model", memoryview(graph), name, 0):
        if kind == "node":
            _check_node(message, name)
        elif kind in ("tensor", "weight"):
            _check_tensor(message, weights if kind == "weight" else (), name)


def _messages(
    kind: str, message: memoryview, name: str, depth: int
) -> Iterator[tuple[str, memoryview]]:
    if depth > _MAX_DEPTH * 3:  # a graph is in an attribute, which is in a node
        raise ValueError("it is nested too deeply")
    yield kind, message
    inside = _INSIDE.get(kind, {})
    for number, value in fields(message) if inside else ():
        if (kind, number) in _FORBIDDEN:
            raise UntrustedError(f"the program in {name} has {_FORBIDDEN[kind, number]}: refused")
        if number in inside and isinstance(value, memoryview):
            yield from _messages(inside[number], value, name, depth + 1)


def _check_node(message: memoryview, name: str) -> None:
    for number, value in fields(message):
        if number == _NODE_DOMAIN and _text(value) not in _DOMAINS:
            raise UntrustedError(
                f"the program in {name} has an operator of {_text(value)!r:.60}: refused, because "
                "only ONNX's own are known to be harmless"
            )


def _check_tensor(message: memoryview, weights: Collection[str], name: str) -> None:
    title, places, external = "", [], False
    for number, value in fields(message):
        if number == _TENSOR_NAME:
            title = _text(value)
        elif number == _TENSOR_EXTERNAL and isinstance(value, memoryview):
            places.append([(key, _text(part)) for key, part in fields(value)])
        elif number == _TENSOR_PLACE:
            external = external or value != 0
    if places == [[(1, "location"), (2, LOCATION)]] and external and title in weights:
        return
    if places or external:
        raise UntrustedError(
            f"the program in {name} has the tensor {title!r:.60} that lies outside of the file: "
            "refused, because a model file never opens another"
        )


def _text(value: int | memoryview) -> str:
    return bytes(value).decode("utf-8", "replace") if isinstance(value, memoryview) else ""
