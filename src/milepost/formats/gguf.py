"""GGUF files: llama.cpp's, and those of what is built on it.

Tensors of a quantised type come as they lie in the file: as bytes, row after row of blocks.
`dequantised` gives their numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from milepost.dtypes import Array, numpy_dtype
from milepost.encodings.strided import c_strides
from milepost.errors import DamagedError, LeafNotFoundError, MissingPackageError, UsageError
from milepost.formats.arrays import stored_array, strided_array
from milepost.formats.flat import flat_array
from milepost.formats.gguf_header import (
    MAGIC,
    GGUFHeader,
    TensorInfo,
    Value,
    read_header,
    read_value,
)
from milepost.formats.gguf_types import BLOCKS, PLAIN, Block
from milepost.formats.place import Place
from milepost.limits import is_shape
from milepost.record import ForeignArray, Record
from milepost.snapshot import Description, Snapshot, closing_on_error
from milepost.source import ByteSource, read_exactly


def recognises(place: Place) -> bool:
    """The magic bytes."""
    return place.start.startswith(MAGIC)


def open_place(place: Place) -> Snapshot:
    """The snapshot in a GGUF file.

    Raises:
        DamagedError: it is not valid.
        VersionError, UnknownFormatError: it is of a version later, or earlier, than 2 and 3.
    """
    source = place.open()
    with closing_on_error([source]):
        header = read_header(source)
        return GGUFSnapshot(source, header, _check(source, header))


class Span:
    """A tensor with its place in the file, once that is known to be sound."""

    __slots__ = ("nbytes", "position", "shape", "type")

    def __init__(self, info: TensorInfo, position: int, nbytes: int) -> None:
        self.shape = info.sizes[::-1]  # NumPy names the outermost first
        self.type = info.type
        self.position = position
        self.nbytes = nbytes


class GGUFSnapshot(Snapshot):
    """The tensors of a GGUF file; its `metadata` has the shorter of the file's values whole."""

    def __init__(self, source: ByteSource, header: GGUFHeader, spans: dict[str, Span]) -> None:
        self._header = header
        self._spans = spans
        records = {name: _record(source, header, span) for name, span in spans.items()}
        description = Description("GGUF", header.metadata)
        super().__init__(source.name, records, [source], description)

    def value(self, key: str) -> Value:
        """The whole value of a key of the metadata: a vocabulary, say, which `metadata` has not.

        Raises:
            LeafNotFoundError: there is no such key.
        """
        if key not in self._header.places:
            raise LeafNotFoundError(f"{self.name} has no metadata {key!r}")
        return read_value(self._files[0], self._header, key)

    def facts(self) -> dict[str, Any]:
        metadata, counts = (
            self._header.metadata,
            Counter(_type_name(span.type) for span in self._spans.values()),
        )
        return {
            "format": f"GGUF {self._header.version}",
            "architecture": metadata.get("general.architecture", ""),
            "model": metadata.get("general.name", ""),
            "types": dict(counts.most_common()),
            "big endian": self._header.big_endian,
            "metadata": dict(self.metadata),
            "bytes": self.nbytes,
        }

    def dequantised(self) -> Snapshot:
        """The same, with what is quantised as float32, as the package `gguf` computes it.

        A type that `gguf` cannot dequantise stays as it is.

        Raises:
            MissingPackageError: gguf is not installed.
            UsageError: the file is big-endian, whose blocks gguf cannot read.
        """
        records = dict(self._records)
        known = _dequantisable() if any(s.type in BLOCKS for s in self._spans.values()) else set()
        for name, span in self._spans.items():
            if span.type in known:
                if self._header.big_endian:
                    raise UsageError(
                        f"{self.name} is big-endian, and {name!r} is quantised: turn it round "
                        "first, with gguf-convert-endian"
                    )
                records[name] = _dequantised(self._files[0], span)
        return Snapshot(self.name, records, self._files, self.description)


def _check(source: ByteSource, header: GGUFHeader) -> dict[str, Span]:
    """Where each tensor lies, once they are known to follow one another without gap or overlap."""
    names = {info.name for info in header.tensors}
    if len(names) != len(header.tensors):
        raise _invalid(source, "two tensors have one name")
    alignment = header.metadata.get("general.alignment", 32)
    assert isinstance(alignment, int)
    if not header.tensors:
        return {}
    data_size = source.size - header.data_start
    ordered = sorted(header.tensors, key=lambda info: info.offset)
    ends = [info.offset for info in ordered[1:]] + [data_size]
    spans, expected = {}, 0
    for info, end in zip(ordered, ends, strict=True):
        if info.offset != expected:
            raise _invalid(
                source,
                f"tensor {info.name!r} starts at {info.offset} of the data, expected {expected}",
            )
        nbytes = _nbytes(source, info, end - info.offset)
        if nbytes > data_size - info.offset:
            raise _invalid(
                source,
                f"tensor {info.name!r} has {nbytes} bytes at {info.offset} of the data, which "
                f"has {max(0, data_size)} in all; it may be cut short",
            )
        expected = -(-(info.offset + nbytes) // alignment) * alignment
        spans[info.name] = Span(info, header.data_start + info.offset, nbytes)
    if data_size > expected:
        raise _invalid(
            source, f"its tensors end at {expected} of the data, which has {data_size} bytes"
        )
    return {info.name: spans[info.name] for info in header.tensors}


def _nbytes(source: ByteSource, info: TensorInfo, room: int) -> int:
    """The size of a tensor. One of an unknown type has all the `room` before the next one."""
    if not is_shape(list(info.sizes)):
        raise _invalid(source, f"tensor {info.name!r} has a shape too large")
    count = math.prod(info.sizes)
    if info.type in PLAIN:
        return count * numpy_dtype(PLAIN[info.type]).itemsize
    block = BLOCKS.get(info.type)
    if block is None:
        if room < 0 or (count and not room):
            raise _invalid(
                source, f"tensor {info.name!r} is of the unknown type {info.type}, of unknown size"
            )
        return room
    if not info.sizes or info.sizes[0] % block.elements:
        raise _invalid(
            source,
            f"tensor {info.name!r} has rows of {info.sizes[:1]} elements, and {block.name} is "
            f"in blocks of {block.elements}",
        )
    return count // block.elements * block.nbytes


def _record(source: ByteSource, header: GGUFHeader, span: Span) -> Record:
    plain, block = PLAIN.get(span.type), BLOCKS.get(span.type)
    if plain is None:
        shape = _bytes_shape(span, block)
        kind = f"{_type_name(span.type)} {list(span.shape)}"
        byte = np.dtype(np.uint8)
        return strided_array(source, span.position, byte, shape, c_strides(shape, 1), kind=kind)
    if header.big_endian:
        dtype = numpy_dtype(plain).newbyteorder(">")
        strides = c_strides(span.shape, dtype.itemsize)
        return strided_array(source, span.position, dtype, span.shape, strides)
    return stored_array(plain, span.shape, span.position)


def _bytes_shape(span: Span, block: Block | None) -> tuple[int, ...]:
    if block is None:
        return (span.nbytes,)
    return (*span.shape[:-1], span.shape[-1] // block.elements * block.nbytes)


def _dequantised(source: ByteSource, span: Span) -> ForeignArray:
    block = BLOCKS[span.type]

    def flat(first: int, stop: int) -> Array:
        begin, end = first // block.elements, -(-stop // block.elements)
        position = span.position + begin * block.nbytes
        data = read_exactly(source, position, (end - begin) * block.nbytes)
        numbers = _numbers(np.frombuffer(data, np.uint8).reshape(1, -1), span.type)
        skipped = first - begin * block.elements
        return numbers.reshape(-1)[skipped : skipped + stop - first]

    kind = f"{block.name} {list(span.shape)}"
    return flat_array("float32", span.shape, flat, kind, span.nbytes)


def _dequantisable() -> set[int]:
    """The types that the installed gguf can dequantise: it is tried on a block of zeros."""
    found = set()
    for number, block in BLOCKS.items():
        try:
            _numbers(np.zeros((1, block.nbytes), np.uint8), number)
        except (NotImplementedError, ValueError):  # ValueError: an older gguf has no such type
            continue
        found.add(number)
    return found


def _numbers(blocks: Array, number: int) -> Array:
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError as error:
        raise MissingPackageError(
            f"quantised tensors are computed by gguf, which cannot be imported ({error}): "
            "pip install 'milepost[formats]'"
        ) from error
    with np.errstate(all="ignore"):  # damaged scales are numbers, too
        numbers: Array = quants.dequantize(blocks, GGMLQuantizationType(number))
    return numbers.astype(np.float32, copy=False)


def _type_name(number: int) -> str:
    if number in PLAIN:
        return PLAIN[number]
    return BLOCKS[number].name if number in BLOCKS else f"type {number}"


def _invalid(source: ByteSource, reason: str) -> DamagedError:
    return DamagedError(f"{source.name} is no valid GGUF file: {reason}")
