"""The tensors of an ONNX model as records, once each is known to have the bytes that it needs.

https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (TensorProto). The bytes are those of
one field, raw; those of another file; or numbers in a field of their type's own.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from milepost.dtypes import STRING, Array, numpy_dtype
from milepost.encodings.protobuf import Span
from milepost.encodings.varints import Varints, decode
from milepost.errors import DamagedError, VersionError
from milepost.formats.arrays import stored_array
from milepost.formats.flat import Flat, as_dtype, flat_array, packed, window
from milepost.formats.onnx_external import ExternalFiles
from milepost.formats.onnx_graph import (
    DOUBLES,
    FLOATS,
    INT32S,
    INT64S,
    STRINGS,
    UINT64S,
    Tensor,
    Value,
)
from milepost.limits import is_shape
from milepost.record import PlainRecord, Record
from milepost.source import ByteSource, read_exactly


class Type(NamedTuple):
    """A type of elements: how many bits each has, and which field may hold them."""

    dtype: str
    bits: int
    field: int


TYPES = {
    1: Type("float32", 32, FLOATS),
    2: Type("uint8", 8, INT32S),
    3: Type("int8", 8, INT32S),
    4: Type("uint16", 16, INT32S),
    5: Type("int16", 16, INT32S),
    6: Type("int32", 32, INT32S),
    7: Type("int64", 64, INT64S),
    8: Type(STRING, 0, STRINGS),
    9: Type("bool", 8, INT32S),
    10: Type("float16", 16, INT32S),
    11: Type("float64", 64, DOUBLES),
    12: Type("uint32", 32, UINT64S),
    13: Type("uint64", 64, UINT64S),
    14: Type("complex64", 64, FLOATS),
    15: Type("complex128", 128, DOUBLES),
    16: Type("bfloat16", 16, INT32S),
    17: Type("float8_e4m3fn", 8, INT32S),
    18: Type("float8_e4m3fnuz", 8, INT32S),
    19: Type("float8_e5m2", 8, INT32S),
    20: Type("float8_e5m2fnuz", 8, INT32S),
    21: Type("uint4", 4, INT32S),
    22: Type("int4", 4, INT32S),
    23: Type("float4_e2m1fn", 4, INT32S),
    24: Type("float8_e8m0fnu", 8, INT32S),
    25: Type("uint2", 2, INT32S),
    26: Type("int2", 2, INT32S),
    27: Type("float6_e2m3fn", 6, INT32S),
    28: Type("float6_e3m2fn", 6, INT32S),
}
_LONGEST_NUMBER = 10
# Values in many pieces are put together in memory; no tool writes so many.
_MAX_JOINED = 64 << 20


class Bytes(NamedTuple):
    """Where the bytes of a tensor lie, and how to read some of them."""

    nbytes: int
    read: Callable[[int, int], Any]
    place: tuple[int, int] | None = None  # the number of the file, and the position in it


def record(name: str, tensor: Tensor, source: ByteSource, others: ExternalFiles) -> Record:
    """The record of a tensor.

    Raises:
        DamagedError: it has other data than its shape needs, or a shape that none can have.
        UntrustedError: its data is in a file outside of the model's folder.
        VersionError: its type is unknown here.
    """
    wanted = f"{source.name}: the tensor {name!r}"
    if not is_shape(tensor.dims):
        raise DamagedError(f"{wanted} has {tensor.dims!r:.80} for its shape")
    known = TYPES.get(tensor.type)
    if known is None or (known.dtype != STRING and not _is_known(known.dtype)):
        raise VersionError(
            f"{wanted} has elements of the type {tensor.type}, which is unknown here: upgrade "
            "milepost and ml_dtypes"
        )
    shape, values = tuple(tensor.dims), tensor.values.get(known.field, [])
    if known.dtype == STRING:
        return _strings(wanted, shape, values, source)
    if tensor.external is not None:
        found = _external(name, tensor.external, known, shape, others)
    elif tensor.raw is not None:
        found = _in_file(source, tensor.raw)
    elif known.field in (INT32S, INT64S, UINT64S):
        return _numbers(wanted, shape, known, values, source)
    else:
        found = _joined(wanted, values, source)
    nbytes = -(-math.prod(shape) * known.bits // 8)
    if found.nbytes != nbytes:
        raise DamagedError(
            f"{wanted} is damaged: {known.dtype}{list(shape)} has {nbytes} bytes, found "
            f"{found.nbytes}"
        )
    return _of_bytes(shape, known, found)


def _is_known(dtype: str) -> bool:
    try:
        return bool(numpy_dtype(dtype))
    except KeyError:
        return False


def _of_bytes(shape: tuple[int, ...], known: Type, found: Bytes) -> Record:
    if known.bits < 8:
        flat = packed(known.dtype, known.bits, found.read)
        return flat_array(known.dtype, shape, flat, stored=found.nbytes)
    if found.place is not None:
        file, position = found.place
        return stored_array(known.dtype, shape, position, file)
    itemsize = known.bits // 8
    return flat_array(
        known.dtype,
        shape,
        lambda first, stop: as_dtype(found.read(first * itemsize, stop * itemsize), known.dtype),
    )


def _in_file(source: ByteSource, span: Span) -> Bytes:
    return Bytes(span.length, window(source, span.position), (0, span.position))


def _external(
    name: str, entries: dict[str, str], known: Type, shape: tuple[int, ...], others: ExternalFiles
) -> Bytes:
    nbytes = -(-math.prod(shape) * known.bits // 8)
    file, source, position = others.place(name, entries, nbytes)
    return Bytes(nbytes, window(source, position), (file, position))


def _joined(wanted: str, values: list[Value], source: ByteSource) -> Bytes:
    """Numbers of a fixed length: in one piece as writers leave them, or in several."""
    spans = [value for value in values if isinstance(value, Span)]
    if len(spans) == 1:
        return _in_file(source, spans[0])
    total = _total(wanted, spans)

    ends = list(accumulate(span.length for span in spans))

    def read(first: int, stop: int) -> bytes:
        begin, end = bisect_right(ends, first), bisect_left(ends, stop) + 1
        data = b"".join(bytes(read_exactly(source, *span)) for span in spans[begin:end])
        skipped = first - (ends[begin - 1] if begin else 0)
        return data[skipped : skipped + stop - first]

    return Bytes(total, read)


def _total(wanted: str, spans: list[Span]) -> int:
    total = sum(span.length for span in spans)
    if len(spans) > 1 and total > _MAX_JOINED:
        raise DamagedError(f"{wanted} has {total:,} bytes in {len(spans):,} pieces, too many")
    return total


def _numbers(
    wanted: str, shape: tuple[int, ...], known: Type, values: list[Value], source: ByteSource
) -> Record:
    """Numbers of no fixed length, each of which has one element, or the bits of several."""
    size = math.prod(shape)
    shared = known.bits in (2, 4)
    count = -(-size * known.bits // 8) if shared else size
    single, spans = _split(values)
    total = _total(wanted, spans)
    if not total + len(single) >= count >= len(single) + total / _LONGEST_NUMBER:
        raise DamagedError(
            f"{wanted} is damaged: {known.dtype}{list(shape)} has {count} numbers, found "
            f"{len(single) + total} at most"
        )
    if len(spans) == 1 and not single:
        packed_numbers = Varints(source, *spans[0])

        def read(first: int, stop: int) -> Array:
            return packed_numbers.read(first, stop, count)
    else:

        def read(first: int, stop: int) -> Array:
            return _gathered(values, source, count)[first:stop]

    return flat_array(
        known.dtype, shape, _elements(known, read, shared), stored=total + len(single)
    )


def _elements(known: Type, read: Flat, shared: bool) -> Flat:
    if shared:
        return packed(known.dtype, known.bits, lambda a, b: read(a, b).astype(np.uint8).tobytes())
    return lambda first, stop: _converted(read(first, stop), known)


def _split(values: list[Value]) -> tuple[list[int], list[Span]]:
    single = [value for value in values if not isinstance(value, Span)]
    return single, [value for value in values if isinstance(value, Span)]


def _gathered(values: list[Value], source: ByteSource, count: int) -> Array:
    parts: list[Array] = []
    for value in values:
        if isinstance(value, Span):
            data = read_exactly(source, *value)
            if data and data[-1] >= 0x80:
                raise DamagedError(f"{source.name} is damaged: a number without an end")
            parts.append(decode(data, 0, len(data), source.name))
        else:
            parts.append(np.array([value], np.uint64))
    result: Array = np.concatenate([np.empty(0, np.uint64), *parts])
    if len(result) != count:
        raise DamagedError(
            f"{source.name} is damaged: expected {count} numbers, found {len(result)}"
        )
    return result


def _converted(numbers: Array, known: Type) -> Array:
    """The lowest bits of each number as an element, as protobuf keeps what is below 32 bits."""
    if known.dtype == "bool":
        truths: Array = numbers != 0
        return truths
    unsigned = np.dtype(f"uint{max(8, known.bits)}")
    bits: Array = numbers.astype(unsigned)
    if known.bits == 6:
        bits &= np.uint8(0x3F)
    elements: Array = bits.view(numpy_dtype(known.dtype))
    return elements


def _strings(
    wanted: str, shape: tuple[int, ...], values: list[Value], source: ByteSource
) -> Record:
    _, spans = _split(values)
    if len(spans) != math.prod(shape):
        raise DamagedError(
            f"{wanted} is damaged: its shape {list(shape)} needs {math.prod(shape)} strings, "
            f"found {len(spans)}"
        )
    if not shape:
        return PlainRecord(bytes(read_exactly(source, *spans[0])))
    return flat_array(
        STRING, shape, _string_reader(spans, source), stored=sum(s.length for s in spans)
    )


def _string_reader(spans: list[Span], source: ByteSource) -> Flat:
    def flat(first: int, stop: int) -> Array:
        result: Array = np.empty(stop - first, object)
        for index, span in enumerate(spans[first:stop]):
            result[index] = bytes(read_exactly(source, *span))
        return result

    return flat
