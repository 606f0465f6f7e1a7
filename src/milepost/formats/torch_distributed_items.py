"""What lies in the files of a distributed checkpoint: what `torch.save` wrote, one after another.

https://github.com/pytorch/pytorch/blob/main/torch/serialization.py
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from milepost.dtypes import Array, numpy_dtype
from milepost.encodings.pickle import Call, Global, PersistentId, interpret
from milepost.encodings.strided import read_strided
from milepost.encodings.zip import Archive, read_archive
from milepost.errors import DamagedError, VersionError
from milepost.formats import torch_values
from milepost.formats.folder import Folder
from milepost.formats.names import leaf_name
from milepost.formats.torch_calls import STORAGES
from milepost.limits import is_shape, is_size
from milepost.record import Box, PlainRecord, as_index, overlap
from milepost.source import ByteSource
from milepost.state import is_plain

# The third, for dtypes that no storage is named after, has the dtype behind the rest.
_REBUILD, _REBUILD_TYPED = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"
_WRAP = "torch._utils._rebuild_parameter"
_MAX_PICKLE, _MAX_LEAVES, _MAX_DEPTH = 1 << 20, 10_000, 20
# Those that NumPy and ml_dtypes have under the same name.
DTYPES = {f"torch.{name}": name for name, ours in torch_values.DTYPES.items() if name == ours}


@dataclass(frozen=True, slots=True)
class Item:
    """Some bytes of a file: the archive that `torch.save` made of one value."""

    folder: Folder
    file: str
    offset: int
    length: int
    transforms: tuple[str, ...]

    def open(self) -> _Part:
        """The archive, as a source of its own.

        Raises:
            VersionError: it was compressed, or otherwise transformed, on its way.
        """
        if self.transforms:
            raise VersionError(
                f"{self.folder}/{self.file} is transformed ({', '.join(self.transforms):.80}), "
                "which milepost does not undo: save it without extensions"
            )
        return _Part(self.folder.open(self.file), self.offset, self.length)


@dataclass(frozen=True, slots=True)
class _Part:
    file: ByteSource
    offset: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.file.name} (at byte {self.offset})"

    def read_into(self, offset: int, buffer: memoryview) -> int:
        length = max(0, min(len(buffer), self.size - offset))
        return self.file.read_into(self.offset + offset, buffer[:length])

    def close(self) -> None:
        self.file.close()


@dataclass(frozen=True, slots=True)
class Piece:
    """A box of a tensor, and where it lies."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    item: Item


@dataclass(frozen=True, slots=True)
class _Storage:
    """Where in its item the numbers of a tensor are."""

    position: int
    dtype: np.dtype[Any]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ShardedTensor:
    """A tensor in pieces. Threads may share it."""

    fqn: str
    dtype: str
    pieces: tuple[Piece, ...]
    _found: dict[int, _Storage] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, box: Box) -> Array:
        """The part inside a box, from the pieces that it touches.

        Raises:
            DamagedError: a piece is not what the metadata says.
        """
        result = np.empty([max(0, stop - start) for start, stop in box], numpy_dtype(self.dtype))
        if result.size == 0:
            return result
        for number, piece in enumerate(self.pieces):
            found = overlap(box, piece.offset, piece.shape)
            if found is not None:
                target, inside = found
                result[as_index(target)] = self._read(number, inside)
        return result

    def _read(self, number: int, box: Box) -> Array:
        piece = self.pieces[number]
        source = piece.item.open()
        try:
            with self._lock:
                storage = self._found.get(number)
            if storage is None:
                storage = _storage(source, piece.shape, self.dtype)
                with self._lock:
                    self._found[number] = storage
            return read_strided(source, storage.position, storage.dtype, storage.strides, box)
        finally:
            source.close()


def plain_leaves(item: Item) -> Iterator[tuple[str, PlainRecord | str]]:
    """The plain values of what is no tensor, each with its name below that of the whole.

    For a value of another kind, the name of its class.
    """
    source = item.open()
    try:
        value, _ = _loaded(source)
    finally:
        source.close()
    yield from _leaves(value, "", [_MAX_LEAVES], 0)


def _leaves(
    value: object, name: str, left: list[int], depth: int
) -> Iterator[tuple[str, PlainRecord | str]]:
    left[0] -= 1
    if left[0] < 0 or depth > _MAX_DEPTH or len(name) > 1000:
        raise DamagedError(f"a value {name!r:.80} of the checkpoint never ends")
    if is_plain(value):
        yield name, PlainRecord(value)
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _leaves(part, f"{name}.{number}", left, depth + 1)
    elif isinstance(value, dict) and all(isinstance(key, str | int) for key in value):
        for key, part in value.items():
            child = leaf_name(f"{name}.{key}".encode(errors="backslashreplace"), "a checkpoint")
            yield from _leaves(part, child, left, depth + 1)
    elif named(value) in DTYPES:
        yield name, PlainRecord(named(value))
    else:
        function = value.function if isinstance(value, Call) else value
        yield name, named(function) or type(value).__name__


def _loaded(source: ByteSource) -> tuple[object, Archive]:
    """The value in an archive of `torch.save`'s, with symbols for all but plain ones."""
    archive = read_archive(source)
    pickles = [name for name in archive.members if name.endswith("/data.pkl")]
    if len(pickles) != 1 or pickles[0].count("/") != 1:
        raise DamagedError(f"{source.name} is no archive of PyTorch's")
    data = archive.read(pickles[0], _MAX_PICKLE)
    return interpret(data, _symbol, f"{source.name}:{pickles[0]}"), archive


def named(value: object) -> str:
    """What a pickle calls something; nothing for a value.

    Values are never shown: lists that share their parts may have a text without end.
    """
    return str(value) if isinstance(value, Global) else ""


def _symbol(node: Call | PersistentId) -> object:
    if isinstance(node, Call) and named(node.function) == "collections.OrderedDict":
        return {}
    if isinstance(node, Call) and named(node.function) == "_codecs.encode":
        # How Python's second protocol, which has none, writes bytes.
        match node.args:
            case (str(text), "latin1") if text.isascii() or max(text) < "\u0100":
                return text.encode("latin1")
    return node


def _storage(source: ByteSource, shape: tuple[int, ...], dtype: str) -> _Storage:
    """Where the numbers of a piece are, which has this shape and dtype, or DamagedError."""
    value, archive = _loaded(source)
    try:
        if isinstance(value, Call) and named(value.function) == _WRAP:
            value = value.args[0]
        if not isinstance(value, Call) or named(value.function) not in (_REBUILD, _REBUILD_TYPED):
            raise TypeError("it is no tensor")
        persistent, offset, size, strides = value.args[:4]
        _, kind, key, _, count = persistent.value  # type: ignore[attr-defined]
        typed = named(value.function) == _REBUILD_TYPED
        found = DTYPES.get(named(value.args[6])) if typed else _storage_dtype(kind)
        sizes, steps = list(_numbers(size)), list(_numbers(strides))
        if sizes != list(shape) or found != dtype:
            raise TypeError(f"expected {dtype}{list(shape)}, found {found}{sizes}")
        if not isinstance(key, str) or not is_size(offset) or not is_size(count):
            raise TypeError("it lies nowhere")
        root = next(iter(archive.members)).split("/")[0]
        member = archive.members[f"{root}/data/{key}"]
        itemsize = numpy_dtype(dtype).itemsize
        last = offset + sum((n - 1) * step for n, step in zip(sizes, steps, strict=True))
        if not member.stored or member.size < (last + 1) * itemsize:
            raise TypeError("its numbers are cut short")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise DamagedError(f"{source.name} is not what the metadata says: {problem:.200}") from None
    little = f"{root}/byteorder" not in archive.members or (
        archive.read(f"{root}/byteorder", 16) == b"little"
    )
    return _Storage(
        member.offset + offset * itemsize,
        numpy_dtype(dtype) if little else numpy_dtype(dtype).newbyteorder(">"),
        tuple(step * itemsize for step in steps),
    )


def _storage_dtype(kind: object) -> str | None:
    return STORAGES.get(named(kind).removeprefix("torch.").removesuffix("Storage"))


def _numbers(value: Any) -> tuple[int, ...]:
    numbers: Any = value.args[0] if isinstance(value, Call) else value
    sizes = list(numbers)
    if not is_shape(sizes):
        raise ValueError("these are no sizes")
    return tuple(sizes)
