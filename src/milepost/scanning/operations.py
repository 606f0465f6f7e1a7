"""Operations of a graph that reach out of it: to files, and to Python.

A SavedModel's graph runs when its signature is called. It is no Python code, but these operations
read and write files of the graph's choice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from milepost.encodings.protobuf import fields
from milepost.scanning.report import Finding, Severity

# https://www.tensorflow.org/api_docs/python/tf/raw_ops, those with effects beside their outputs;
# but for SaveV2, RestoreV2 and MergeV2Checkpoints, with which every SavedModel restores itself.
_FILES = "reads or writes files of the graph's choice when it runs"
_PYTHON = "calls Python functions when it runs"
_EFFECTS = {
    **dict.fromkeys(("PyFunc", "PyFuncStateless", "EagerPyFunc"), _PYTHON),
    **dict.fromkeys(
        (
            *("ReadFile", "WriteFile", "MatchingFiles", "Save", "SaveSlices", "Restore"),
            *("RestoreSlice", "PrintV2", "ImmutableConst"),
            *("WholeFileReader", "WholeFileReaderV2", "TextLineReader", "TextLineReaderV2"),
            *("FixedLengthRecordReader", "FixedLengthRecordReaderV2", "TFRecordReader"),
            *("TFRecordReaderV2", "TextLineDataset", "FixedLengthRecordDataset"),
            *("TFRecordDataset", "SaveDataset", "SaveDatasetV2", "LoadDataset"),
            *("SnapshotDataset", "SnapshotDatasetV2", "CacheDataset", "CacheDatasetV2"),
            *("WriteAudioSummary", "CreateSummaryFileWriter", "CreateSummaryDbWriter"),
            *("DebugIdentity", "DebugIdentityV2", "DebugIdentityV3", "RpcClient", "RpcCall"),
            *("RpcServer", "RpcServerStart", "RegisterDataset", "RegisterDatasetV2"),
            *("DistributedSave", "DatasetToTFRecord"),
        ),
        _FILES,
    ),
}


def scan_saved_model(data: memoryview, where: str) -> Iterator[Finding]:
    """The operations of a `saved_model.pb` with effects outside of the graph.

    Raises:
        ValueError: it is no message.
    """
    found: dict[str, int] = {}
    for number, meta in fields(data):  # SavedModel.meta_graphs = 2
        if number == 2 and isinstance(meta, memoryview):
            for operation in _operations(meta):
                found[operation] = found.get(operation, 0) + 1
    for operation, count in sorted(found.items()):
        if operation in _EFFECTS:
            times = "" if count == 1 else f" ({count} times)"
            severity = Severity.DANGEROUS if "Py" in operation else Severity.SUSPICIOUS
            yield Finding(severity, where, f"{operation}{times}", _EFFECTS[operation])


def keras_configurations(data: memoryview, *, graph: bool) -> Iterator[Any]:
    """What Keras keeps of its layers beside a SavedModel's graph, and makes them of again.

    It is in `keras_metadata.pb`, or, with older versions, in the `graph` itself.

    Raises:
        ValueError: it is no message.
    """
    # SavedModel.meta_graphs, MetaGraphDef.object_graph_def, SavedObjectGraph.nodes,
    # SavedObject.user_object, SavedUserObject.metadata; SavedMetadata.nodes, SavedObject.metadata
    for text in _inner(data, (2, 7, 1, 4, 3) if graph else (1, 5)):
        if bytes(text[:1]) in (b"{", b"["):
            yield json.loads(bytes(text))


def _inner(message: memoryview, way: tuple[int, ...]) -> Iterator[memoryview]:
    """Every field of bytes to which a way of field numbers leads."""
    if not way:
        yield message
        return
    for number, value in fields(message):
        if number == way[0] and isinstance(value, memoryview):
            yield from _inner(value, way[1:])


def _operations(meta: memoryview) -> Iterator[str]:
    """The operation of every node of a MetaGraphDef: in its graph, and in its functions."""
    for number, graph in fields(meta):
        if number != 2 or not isinstance(graph, memoryview):  # MetaGraphDef.graph_def
            continue
        for kind, item in fields(graph):
            if not isinstance(item, memoryview):
                continue
            if kind == 1:  # GraphDef.node
                yield from _operation(item)
            elif kind == 2:  # GraphDef.library
                yield from _function_operations(item)


def _function_operations(library: memoryview) -> Iterator[str]:
    for number, function in fields(library):
        if number != 1 or not isinstance(function, memoryview):  # FunctionDefLibrary.function
            continue
        for kind, node in fields(function):
            if kind == 3 and isinstance(node, memoryview):  # FunctionDef.node_def
                yield from _operation(node)


def _operation(node: memoryview) -> Iterator[str]:
    for number, value in fields(node):
        if number == 2 and isinstance(value, memoryview):  # NodeDef.op
            yield bytes(value).decode(errors="backslashreplace")
