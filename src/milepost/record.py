"""Records: what a manifest or a model file says of each leaf, to and from JSON.

An array's record has its dtype, its global shape and its chunks. A chunk is a box inside
the array (offset and shape), the digest and checksum of its raw bytes, and where they lie.
A plain value's record is the value.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from milepost import dtypes
from milepost.buffers import BLOCK
from milepost.chunk import Chunk, Shape, as_shape, check_place
from milepost.chunk import decode as decode_chunk
from milepost.chunk import encode as encode_chunk
from milepost.dtypes import Array
from milepost.errors import DamagedError, VersionError
from milepost.jsontext import dumps, quoted, sizes
from milepost.light import light
from milepost.limits import is_writable
from milepost.state import LeafSpec, Plain, spec_of

# Larger than this, an array is cut into chunks of about this size. Big enough that the
# cost of a chunk does not count, small enough to read and compare in parts.
CHUNK_BYTES = 16 << 20


@light
class ArrayRecord:
    dtype: str
    shape: Shape
    chunks: tuple[Chunk, ...]

    @property
    def spec(self) -> LeafSpec:
        return LeafSpec(self.dtype, self.shape)

    @property
    def nbytes(self) -> int:
        return _nbytes(self.dtype, self.shape)


def _nbytes(dtype: str, shape: Shape) -> int:
    return math.prod(shape) * dtypes.numpy_dtype(dtype).itemsize


# A (start, stop) pair for each axis.
Box: TypeAlias = tuple[tuple[int, int], ...]


@light
class ForeignArray(ArrayRecord):
    """An array whose bytes do not lie in C order and little-endian: its format reads it.

    It has no `chunks`. `read` returns the part inside a box, of the dtype that `dtype` names,
    in memory of its own; it may be called from several threads at once.

    Attributes:
        kind: what the file calls its type, where that says more than the dtype (`"Q4_K"`).
        stored: its size in the file, in bytes; None where that is `nbytes`.
    """

    read: Callable[[Box], Array]
    kind: str = ""
    stored: int | None = None

    @property
    def nbytes(self) -> int:
        if self.dtype == dtypes.STRING:
            return self.stored or 0  # no two strings need have one length
        return _nbytes(self.dtype, self.shape)  # no `super()`: slots make another class of this one


@light
class PlainRecord:
    value: Plain

    @property
    def spec(self) -> LeafSpec:
        return spec_of(self.value)


Record: TypeAlias = ArrayRecord | PlainRecord


def overlap(box: Box, offset: Sequence[int], shape: Sequence[int]) -> tuple[Box, Box] | None:
    """Where a chunk and a box of the same array overlap; None if they do not.

    First as a part of the box, then as a part of the chunk.
    """
    both = [
        (max(start, o), min(stop, o + n))
        for (start, stop), o, n in zip(box, offset, shape, strict=True)
    ]
    if any(start >= stop for start, stop in both):
        return None
    in_box = tuple((a - s, b - s) for (a, b), (s, _) in zip(both, box, strict=True))
    return in_box, tuple((a - o, b - o) for (a, b), o in zip(both, offset, strict=True))


def as_index(box: Box) -> Any:
    """What gives the part of a NumPy array inside a box: a view, even of a 0-d array."""
    return (*(slice(start, stop) for start, stop in box), ...)


def chunk_boxes(
    shape: Shape, itemsize: int, target: int = CHUNK_BYTES
) -> Iterator[tuple[Shape, Shape]]:
    """The (offset, shape) boxes that cut an array into chunks of at most `target` bytes.

    Each box is contiguous in C order and they follow one another. An array without elements
    has none; one that is small enough has one.
    """
    nbytes = math.prod(shape) * itemsize
    if nbytes == 0:
        return
    if nbytes <= target or not shape:
        yield (0,) * len(shape), tuple(shape)
        return
    # The first axis whose rows fit the target; the axes before it are cut to single indices.
    axis, row = 0, math.prod(shape[1:]) * itemsize
    while row > target and axis < len(shape) - 1:
        axis += 1
        row = math.prod(shape[axis + 1 :]) * itemsize
    step = max(1, target // row)
    # Whole blocks of a disk, where that is possible, can be written from where they lie.
    blocks = BLOCK // math.gcd(row, BLOCK)
    if step > blocks:
        step -= step % blocks
    rest = shape[axis + 1 :]
    for index in np.ndindex(*shape[:axis]):
        for start in range(0, shape[axis], step):
            offset = (*index, start, *(0 for _ in rest))
            yield offset, (*(1 for _ in index), min(step, shape[axis] - start), *rest)


_INTEGER = re.compile(r"-?0x[0-9a-f]+")


def encode_plain(value: Plain) -> Any:
    """A plain value as JSON; what JSON has no word for is an object that names its type."""
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        # Many JSON readers hold numbers as doubles, which are exact up to here only.
        return int(value) if abs(value) <= 2**53 else {"int": hex(value)}
    if is_writable(value):
        return str.__str__(value)  # of an enum's member the value, not the name
    return {"str": base64.b64encode(value.encode("utf-8", "surrogatepass")).decode()}


def decode_plain(encoded: Any) -> Plain:
    """The value that `encode_plain` wrote.

    Raises:
        DamagedError: it is none.
    """
    if encoded is None or isinstance(encoded, bool | int | float | str):
        return encoded
    if isinstance(encoded, dict) and len(encoded) == 1:
        [(kind, text)] = encoded.items()
        try:
            if kind == "bytes":
                return base64.b64decode(text, validate=True)
            if kind == "str":
                return base64.b64decode(text, validate=True).decode("utf-8", "surrogatepass")
            if kind == "int" and _INTEGER.fullmatch(text):
                return int(text, 16)
            if kind == "float" and text in ("nan", "inf", "-inf"):
                return float(text)
        except (TypeError, ValueError, binascii.Error):
            pass
    raise DamagedError(f"expected a plain value, found {encoded!r:.80}")


def encode(record: Record, *, places: bool = True) -> dict[str, Any]:
    """A record as JSON; without `places` where the chunks of each array follow one another."""
    if isinstance(record, PlainRecord):
        return {"value": encode_plain(record.value)}
    return {
        "dtype": record.dtype,
        "shape": record.shape,
        "chunks": [encode_chunk(chunk, record.shape, places=places) for chunk in record.chunks],
    }


def encode_all(records: Mapping[str, Record]) -> str:
    """The JSON text of an object of these records, as `encode` makes each."""
    members = []
    for name, record in records.items():
        if isinstance(record, ArrayRecord) and len(record.chunks) == 1:
            chunk = record.chunks[0]
            if chunk.shape == record.shape and chunk.encoding is None:  # most often
                members.append(
                    f'{quoted(name)}:{{"dtype":"{record.dtype}","shape":{sizes(record.shape)},'
                    f'"chunks":[{{"digest":"{chunk.digest}","checksum":"{chunk.checksum}",'
                    f'"file":{chunk.file},"position":{chunk.position}}}]}}'
                )
                continue
        members.append(f"{quoted(name)}:{dumps(encode(record))}")
    return f"{{{','.join(members)}}}"


def decode(encoded: Any, name: str, file_sizes: list[int], start: int | None = None) -> Record:
    """The record that `encode` wrote for the leaf `name`, checked against the real files.

    `start` is where the chunks of a record without places begin, in file 0.

    Raises:
        DamagedError: it is none, its chunks do not cover the array exactly, or lie outside
            the files.
        VersionError: its dtype or a digest's algorithm is unknown here.
    """
    try:
        if "value" in encoded:
            return PlainRecord(decode_plain(encoded["value"]))
        dtype, shape = encoded["dtype"], as_shape(encoded["shape"])
        itemsize = _itemsize(dtype, name)
        chunks = []
        for item in encoded["chunks"]:
            chunk = decode_chunk(item, shape, itemsize, start)
            chunks.append(chunk)
            start = None if start is None else start + chunk.nbytes
    except KeyError as error:
        raise DamagedError(f"leaf {name!r} lacks {error}") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise DamagedError(
            f"leaf {name!r} is not described as an array or a value: {error}"
        ) from None
    _check_cover(name, shape, chunks)
    for chunk in chunks:
        check_place(name, chunk, file_sizes)
    return ArrayRecord(dtype, shape, tuple(chunks))


def _itemsize(dtype: Any, name: str) -> int:
    if not isinstance(dtype, str):
        raise TypeError(f"{dtype!r:.80} is no dtype")
    try:
        return dtypes.numpy_dtype(dtype).itemsize
    except KeyError:
        raise VersionError(
            f"leaf {name!r} has the dtype {dtype!r}, which is unknown here: a newer milepost, "
            "a newer ml_dtypes or another kind of machine may know it"
        ) from None


def _check_cover(name: str, shape: Shape, chunks: list[Chunk]) -> None:
    """Boxes inside the array whose sizes add up, no two of which overlap, cover it exactly."""
    if len(chunks) == 1 and chunks[0].shape == shape and chunks[0].offset == (0,) * len(shape):
        return  # most often
    total = 0
    for chunk in chunks:
        inside = len(chunk.offset) == len(chunk.shape) == len(shape) and all(
            o + n <= size for o, n, size in zip(chunk.offset, chunk.shape, shape, strict=True)
        )
        if not inside:
            raise DamagedError(f"leaf {name!r} has a chunk outside its shape {list(shape)}")
        total += math.prod(chunk.shape)
    if total != math.prod(shape) or _any_overlap(chunks):
        raise DamagedError(f"leaf {name!r}: its chunks do not cover its shape {list(shape)}")


def _any_overlap(chunks: list[Chunk]) -> bool:
    """Whether two boxes share an element; they are compared along the axis that tells most."""
    if len(chunks) < 2 or not chunks[0].offset:
        return len(chunks) > 1
    axes = range(len(chunks[0].offset))
    axis = max(axes, key=lambda axis: len({chunk.offset[axis] for chunk in chunks}))
    ordered = sorted(chunks, key=lambda chunk: chunk.offset[axis])
    near: list[Chunk] = []  # those before that reach as far as the next one's start
    for chunk in ordered:
        near = [c for c in near if c.offset[axis] + c.shape[axis] > chunk.offset[axis]]
        if any(_overlap(chunk, other) for other in near):
            return True
        near.append(chunk)
    return False


def _overlap(a: Chunk, b: Chunk) -> bool:
    spans = zip(a.offset, a.shape, b.offset, b.shape, strict=True)
    return all(start < other + m and other < start + n for start, n, other, m in spans)
