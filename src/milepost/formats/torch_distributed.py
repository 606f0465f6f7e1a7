"""PyTorch's distributed checkpoints: a folder with `.metadata`, and a file for each writer.

https://github.com/pytorch/pytorch/blob/main/torch/distributed/checkpoint/metadata.py
https://github.com/pytorch/pytorch/blob/main/torch/distributed/checkpoint/filesystem.py

`.metadata` is a pickle, read as what it says. It tells of each tensor its dtype, shape and
chunks, and of each chunk the file and the bytes in which it lies. Leaves have PyTorch's own
names (`optimizer.state.layer.weight.exp_avg`); what is in a tuple has its number behind them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from milepost.dtypes import numpy_dtype
from milepost.encodings.pickle import Call, Global, PersistentId, interpret
from milepost.errors import DamagedError, MilepostError, UntrustedError
from milepost.formats.folder import Folder
from milepost.formats.names import Unique, leaf_name
from milepost.formats.place import Place
from milepost.formats.torch_distributed_items import (
    DTYPES,
    Item,
    Piece,
    ShardedTensor,
    named,
    plain_leaves,
)
from milepost.limits import is_shape, is_size
from milepost.record import ForeignArray, Record
from milepost.snapshot import Description, Snapshot

_METADATA = ".metadata"
_MAX_METADATA = 128 << 20
# How often two chunks may be compared: those of a real tensor meet few others.
_MAX_COMPARISONS = 2_000_000
_MOST_VALUES = 20_000  # that are no tensors: each takes a moment to read
# What a metadata pickle may name. Paths, because it may say where it was saved.
_KNOWN_MODULES = ("torch.distributed.checkpoint.", "torch.distributed._shard.")
_KNOWN = {
    "torch.Size",
    "torch.serialization._get_layout",
    "collections.OrderedDict",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib.Path",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
}

Index = tuple[str, tuple[int, ...] | None]


def recognises(place: Place) -> bool:
    """A folder with this file."""
    return place.is_folder and _METADATA in place.names


def open_place(place: Place) -> Snapshot:
    """The snapshot in a folder that `torch.distributed.checkpoint.save` wrote.

    Raises:
        DamagedError: it is not valid.
        UntrustedError: its metadata names something that it has no need of, or a file outside.
        VersionError: it is compressed, or otherwise transformed.
    """
    folder = Folder(place.path)
    name = folder.path_of(_METADATA)
    data = folder.read_all(_METADATA, _MAX_METADATA)
    metadata = _state(interpret(data, _checked, name), "Metadata")
    try:
        tensors = _tensors(metadata["state_dict_metadata"])
        items = _items(folder, metadata["storage_data"])
        records, unread = _records(tensors, items)
    except MilepostError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise DamagedError(f"{name} describes no checkpoint: {problem:.200}") from None
    about = {"not read": unread} if unread else {}
    return Snapshot(place.path, records, [], Description("PyTorch distributed checkpoint", about))


def _checked(node: Call | PersistentId) -> object:
    """Refuses whatever a checkpoint's metadata has no need of."""
    if not isinstance(node, Call) or not isinstance(node.function, Global):
        raise UntrustedError(f"{_METADATA} has a pickle that PyTorch would not write")
    name = str(node.function)
    if name not in _KNOWN and not name.startswith(_KNOWN_MODULES):
        raise UntrustedError(
            f"{_METADATA} wants to call {name:.80}, of which a checkpoint has no need: do not "
            "open it with PyTorch, which would"
        )
    return node


@dataclass(frozen=True, slots=True)
class _Tensor:
    dtype: str
    shape: tuple[int, ...]
    chunks: list[tuple[tuple[int, ...], tuple[int, ...]]]  # offset, shape


def _tensors(described: Any) -> dict[str, _Tensor | None]:
    """What each name stands for; None for what is no tensor."""
    result: dict[str, _Tensor | None] = {}
    for name, call in described.items():
        if not isinstance(name, str):
            raise TypeError("a name is no text")
        if _class(call) == "BytesStorageMetadata":
            result[name] = None
            continue
        state = _state(call, "TensorStorageMetadata")
        properties = _state(state["properties"], "TensorProperties")
        dtype = properties["dtype"] if isinstance(properties, dict) else properties[0]
        if named(dtype) not in DTYPES:
            raise TypeError(f"{name!r:.80} has the unknown dtype {named(dtype):.80}")
        chunks = [_state(chunk, "ChunkStorageMetadata") for chunk in state["chunks"]]
        boxes = [(_size(chunk["offsets"]), _size(chunk["sizes"])) for chunk in chunks]
        result[name] = _Tensor(DTYPES[named(dtype)], _size(state["size"]), boxes)
    return result


def _items(folder: Folder, described: Any) -> dict[Index, Item]:
    """Where each chunk of a tensor lies, and each other value."""
    sizes: dict[str, int] = {}
    result: dict[Index, Item] = {}
    for key, call in described.items():
        index, info = _state(key, "MetadataIndex"), _state(call, "_StorageInfo")
        file, offset, length = info["relative_path"], info["offset"], info["length"]
        if not isinstance(file, str) or not isinstance(index["fqn"], str):
            raise TypeError("a name is no text")
        if not is_size(offset) or not is_size(length):
            raise TypeError(f"{index['fqn']!r:.80} lies nowhere")
        if file not in sizes:
            source = folder.open(file)
            sizes[file] = source.size
            source.close()
        if offset + length > sizes[file]:
            raise DamagedError(
                f"{folder}/{file} is cut short: it has {sizes[file]} bytes, where {_METADATA} "
                f"has {length} at {offset}"
            )
        place = index.get("offset")
        transforms = tuple(
            part if isinstance(part, str) else "?"
            for part in info.get("transform_descriptors") or ()
        )
        result[index["fqn"], None if place is None else _size(place)] = Item(
            folder, file, offset, length, transforms
        )
    return result


def _records(
    tensors: Mapping[str, _Tensor | None], items: Mapping[Index, Item]
) -> tuple[dict[str, Record], dict[str, str]]:
    """The leaves; and the names of those values that are of no kind of ours, with their class."""
    unique, records, unread = Unique(), dict[str, Record](), dict[str, str]()
    comparisons = _Budget(_MAX_COMPARISONS)
    if sum(tensor is None for tensor in tensors.values()) > _MOST_VALUES:
        raise ValueError("too many values that are no tensors")
    for fqn, tensor in tensors.items():
        name = unique(leaf_name(fqn.encode(errors="backslashreplace"), _METADATA))
        if tensor is not None:
            records[name] = _array(fqn, tensor, items, comparisons)
            continue
        for below, value in plain_leaves(_found(items, fqn, None)):
            if isinstance(value, str):
                unread[name + below] = value
            else:
                records[unique(name + below) if below else name] = value
    return records, unread


def _array(
    fqn: str, tensor: _Tensor, items: Mapping[Index, Item], comparisons: _Budget
) -> ForeignArray:
    _check_cover(fqn, tensor, comparisons)
    pieces = tuple(
        Piece(offset, shape, _found(items, fqn, offset))
        for offset, shape in tensor.chunks
        if math.prod(shape)
    )
    sharded = ShardedTensor(fqn, tensor.dtype, pieces)
    for piece in pieces:
        if math.prod(piece.shape) * numpy_dtype(tensor.dtype).itemsize > piece.item.length:
            raise DamagedError(f"a chunk of {fqn!r:.80} is larger than its place in the file")
    return ForeignArray(tensor.dtype, tensor.shape, (), sharded.read)


def _found(items: Mapping[Index, Item], fqn: str, offset: tuple[int, ...] | None) -> Item:
    item = items.get((fqn, offset))
    if item is None:
        raise DamagedError(f"{_METADATA} does not say where {fqn!r:.80} lies")
    return item


@dataclass(slots=True)
class _Budget:
    left: int


def _check_cover(fqn: str, tensor: _Tensor, comparisons: _Budget) -> None:
    """Boxes inside the tensor whose sizes add up, no two of which overlap, cover it exactly."""
    total = 0
    for offset, shape in tensor.chunks:
        if not len(offset) == len(shape) == len(tensor.shape) or any(
            o + n > size for o, n, size in zip(offset, shape, tensor.shape, strict=True)
        ):
            raise DamagedError(f"{fqn!r:.80} has a chunk outside its shape {list(tensor.shape)}")
        total += math.prod(shape)
    chunks = [chunk for chunk in tensor.chunks if math.prod(chunk[1])]
    if total != math.prod(tensor.shape) or any(_overlaps(chunks, comparisons)):
        raise DamagedError(
            f"{fqn!r:.80}: its chunks do not cover its shape {list(tensor.shape)}: the files "
            "of some process are missing"
        )


def _overlaps(
    chunks: list[tuple[tuple[int, ...], tuple[int, ...]]], comparisons: _Budget
) -> Iterator[bool]:
    """Whether two boxes share an element, along the axis that tells most of them apart."""
    if len(chunks) < 2 or not chunks[0][0]:
        yield len(chunks) > 1
        return
    axis = max(range(len(chunks[0][0])), key=lambda axis: len({o[axis] for o, _ in chunks}))
    near: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for offset, shape in sorted(chunks, key=lambda chunk: chunk[0][axis]):
        near = [(o, n) for o, n in near if o[axis] + n[axis] > offset[axis]]
        comparisons.left -= len(near)
        if comparisons.left < 0:
            raise DamagedError(f"{_METADATA} has chunks in no order that a program would write")
        for other, size in near:
            spans = zip(offset, shape, other, size, strict=True)
            yield all(a < b + m and b < a + n for a, n, b, m in spans)
        near.append((offset, shape))


def _class(value: object) -> str:
    if isinstance(value, Call) and isinstance(value.function, Global):
        return value.function.name
    return type(value).__name__


def _state(value: object, expected: str) -> Any:
    """The attributes of an object of a class."""
    if not isinstance(value, Call) or _class(value) != expected:
        raise DamagedError(f"{_METADATA} is damaged: expected {expected}, found {_class(value)}")
    return {} if value.state is None else value.state


def _size(value: Any) -> tuple[int, ...]:
    """A `torch.Size`."""
    sizes = list(value.args[0]) if _class(value) == "Size" else list(value)
    if not is_shape(sizes):
        raise ValueError("a size is none")
    return tuple(sizes)
