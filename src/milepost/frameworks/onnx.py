"""ONNX graphs whose weights are leaves of a model, for the frameworks that export to ONNX."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from milepost.dtypes import Array
from milepost.frameworks.programs import Interface, Leaves
from milepost.program import Program
from milepost.runtimes.onnx import LOCATION

# The exporters follow what is written in this version; every onnxruntime that we support runs it.
OPSET = 18


def from_torch(
    model: Any,
    call: Callable[[Any], Any],
    interface: Interface,
    signature: Mapping[str, Any],
    leaves: Leaves,
) -> Program:
    """A program of a `torch.nn.Module`; `call` calls it with nested inputs."""
    import onnx_ir
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *arrays: Any) -> Any:
            outputs = interface.flat(call(interface.nested(arrays)))
            # What is input and output would lose one of its names.
            return tuple(o.clone() if any(o is a for a in arrays) else o for o in outputs)

    flat = Flat()
    flat.training = False  # and the model's own modes as they are
    places = [*model.parameters(), *model.buffers()]
    device = places[0].device if places else "cpu"
    exported = torch.onnx.export(
        flat,
        tuple(_tensor(array, device) for array in interface.traced(signature)),
        dynamo=True,
        optimize=False,  # it would compute with the weights
        verbose=False,
        opset_version=OPSET,
        input_names=list(interface.input_names()),
        output_names=list(interface.output_names()),
        dynamic_shapes=(
            tuple(_dynamic(entry) for entry in signature["inputs"] if entry["shape"] is not None),
        ),
    )
    assert exported is not None, "an export by dynamo returns a program"
    weights = {}
    for name, value in exported.model.graph.initializers.items():
        tensor: Any = value.const_value
        leaf = leaves.find(name.removeprefix("model."), tensor.numpy())
        if leaf is not None:
            weights[name] = leaf
            value.const_value = onnx_ir.ExternalTensor(
                LOCATION, 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=name
            )
    return program(onnx_ir.to_proto(exported.model), weights, interface)


def _tensor(array: Any, device: Any) -> Any:
    from milepost import frameworks

    return frameworks.makers()["torch"](np.array(array)).to(device)


def _dynamic(entry: Mapping[str, Any]) -> dict[int, Any]:
    import torch

    sizes = enumerate(entry["shape"])
    return {axis: torch.export.Dim.DYNAMIC for axis, size in sizes if size is None}


def program(
    graph: Any,
    weights: Mapping[str, str],
    interface: Interface,
    constants: Mapping[str, Array] = MappingProxyType({}),
) -> Program:
    """A program out of an `onnx.ModelProto`, in which weights are inputs or initialisers.

    `constants` are inputs too, which no leaf holds: they become part of the program.
    """
    import onnx
    import onnx.inliner

    if graph.functions:
        graph = onnx.inliner.inline_local_functions(graph)
    main = graph.graph
    for given in [item for item in main.input if item.name in constants]:
        main.initializer.append(onnx.numpy_helper.from_array(constants[given.name], given.name))
        main.input.remove(given)
    shapes = {tensor.name: tensor for tensor in main.initializer if tensor.name in weights}
    for given in [item for item in main.input if item.name in weights]:
        shape = given.type.tensor_type
        shapes[given.name] = onnx.TensorProto(
            name=given.name,
            data_type=shape.elem_type,
            dims=[size.dim_value for size in shape.shape.dim],
        )
        main.input.remove(given)
    used = set(_used(main))
    kept = [tensor for tensor in main.initializer if tensor.name not in weights]
    del main.initializer[:]
    main.initializer.extend(kept)
    for name, tensor in shapes.items():
        if name in used:
            main.initializer.append(_without_data(onnx, tensor))
    _strip(graph)
    return Program(
        "onnx",
        graph.SerializeToString(),
        {name: weights[name] for name in shapes if name in used},
        interface.input_names(),
        tuple(output.name for output in main.output),
    )


def _without_data(onnx: Any, tensor: Any) -> Any:
    bare = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    bare.data_location = onnx.TensorProto.EXTERNAL
    bare.external_data.add(key="location", value=LOCATION)
    return bare


def _graphs(graph: Any) -> Iterable[Any]:
    """A graph, and those inside of its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _graphs(inner)


def _used(main: Any) -> Iterable[str]:
    for graph in _graphs(main):
        yield from (out.name for out in graph.output)
        for node in graph.node:
            yield from node.input


def _strip(model: Any) -> None:
    """Take out what only tells where the model's code was: names of files, lines of source."""
    model.ClearField("doc_string")
    model.ClearField("metadata_props")
    for graph in _graphs(model.graph):
        graph.ClearField("doc_string")
        graph.ClearField("metadata_props")
        graph.ClearField("value_info")
        for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
            item.ClearField("doc_string")
            item.ClearField("metadata_props")
        for node in graph.node:
            node.ClearField("name")
