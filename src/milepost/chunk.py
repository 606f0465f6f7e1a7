"""Chunks: boxes of arrays, where their bytes lie in a file, and how they are encoded there.

A chunk's identity is the digest of its raw bytes, C-ordered and little-endian, however they
are stored. Most lie in a file as they are. A chunk that was compacted is encoded: as byte
planes, maybe of its differences to another chunk, its base, which the record describes in
full. So a manifest tells by itself all that it takes to read its leaves.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from milepost import digest
from milepost.errors import DamagedError, VersionError
from milepost.light import light
from milepost.limits import is_shape, is_size, shown

Shape: TypeAlias = tuple[int, ...]

# What `Encoding.codec` may be.
STORED, PLANES = "stored", "planes"
# A chunk that is encoded has at most so many times the bytes that it takes in the file, and
# so many bytes at all: what a small file can make a reader allocate is bounded.
MAX_RATIO = 1024
MAX_BYTES = 1 << 28
# A base may have a base, and so on, up to so many in all.
MAX_DEPTH = 4

_WIDTHS = (1, 2, 4, 8)


@light
class Encoding:
    """How a compacted chunk lies in its file.

    Attributes:
        codec: `"stored"`, as it is, because nothing is gained; or `"planes"`, the encoding of
            `milepost.encodings.planes`.
        nbytes: how many bytes it takes in the file.
        checksum: of these; as `Chunk.checksum` is of the raw bytes.
        width: the bytes of an element; 0 where it is stored.
        low: how many of its lowest bytes are kept together.
        base: what the differences are to, a chunk of as many raw bytes; None without.
    """

    codec: str
    nbytes: int
    checksum: str
    width: int = 0
    low: int = 0
    base: Chunk | None = None


@light
class Chunk:
    """A box of an array, and the place of its bytes."""

    offset: Shape
    shape: Shape
    digest: str | None  # None in a file that milepost did not write
    checksum: str | None
    file: int  # index into the files that belong to the records
    position: int  # in bytes, from the start of that file
    nbytes: int  # of the raw bytes
    encoding: Encoding | None = None  # None before it is compacted

    @property
    def is_encoded(self) -> bool:
        """Whether the file has something else than its raw bytes."""
        return self.encoding is not None and self.encoding.codec != STORED

    @property
    def stored_bytes(self) -> int:
        """How many bytes it takes in its file."""
        return self.nbytes if self.encoding is None else self.encoding.nbytes

    @property
    def end(self) -> int:
        """Where its bytes in the file end."""
        encoding = self.encoding  # no property of its own: there can be very many chunks
        return self.position + (self.nbytes if encoding is None else encoding.nbytes)


def encode(chunk: Chunk, shape: Shape, *, places: bool = True) -> dict[str, Any]:
    """A chunk of an array of this shape as JSON."""
    # Most arrays are one chunk: then the box goes without saying.
    found: dict[str, Any] = {}
    if chunk.shape != shape:
        found["offset"], found["shape"] = chunk.offset, chunk.shape
    _encode_data(chunk, found, places)
    return found


def _encode_data(chunk: Chunk, found: dict[str, Any], places: bool) -> None:
    found["digest"], found["checksum"] = chunk.digest, chunk.checksum
    if places:
        found["file"], found["position"] = chunk.file, chunk.position
    if chunk.encoding is not None:
        found["encoding"] = _encode_encoding(chunk.encoding)


def _encode_encoding(encoding: Encoding) -> dict[str, Any]:
    if encoding.codec == STORED:
        return {"codec": STORED}
    found: dict[str, Any] = {
        "codec": encoding.codec,
        "width": encoding.width,
        "low": encoding.low,
        "bytes": encoding.nbytes,
        "checksum": encoding.checksum,
    }
    if encoding.base is not None:
        found["base"] = {}
        _encode_data(encoding.base, found["base"], places=True)
    return found


def decode(item: Any, shape: Shape, itemsize: int, start: int | None) -> Chunk:
    """The chunk that `encode` wrote; `start` is its place where it has none of its own.

    Raises:
        KeyError, TypeError: it is none.
        DamagedError, VersionError: its encoding is none, or unknown.
    """
    box = as_shape(item["shape"]) if "shape" in item else shape
    offset = as_shape(item["offset"]) if "offset" in item else (0,) * len(shape)
    return _decode_data(item, (offset, box), math.prod(box) * itemsize, start, MAX_DEPTH)


def _decode_data(
    item: Any, box: tuple[Shape, Shape], nbytes: int, start: int | None, depth: int
) -> Chunk:
    file, position = (item["file"], item["position"]) if start is None else (0, start)
    if not is_size(file) or not is_size(position):
        raise TypeError(f"{shown(item)} lies nowhere")
    value, checksum = item["digest"], item["checksum"]
    encoding = None
    if "encoding" in item:
        encoding = _decode_encoding(item["encoding"], checksum, nbytes, depth)
    return Chunk(*box, value, checksum, file, position, nbytes, encoding)


def _decode_encoding(item: Any, checksum: Any, nbytes: int, depth: int) -> Encoding:
    codec = item["codec"]
    if codec == STORED:
        return Encoding(STORED, nbytes, checksum)
    if codec != PLANES:
        raise VersionError(f"a chunk is encoded as {shown(codec)}, unknown here: upgrade milepost")
    width, low, stored = item["width"], item["low"], item["bytes"]
    if type(width) is not int or width not in _WIDTHS or nbytes % width:
        raise TypeError(f"{shown(width)} is no width of elements of {nbytes} bytes")
    if type(low) is not int or low not in (0, 2, 4) or low >= width:
        raise TypeError(f"{shown(low)} of {width} bytes cannot be kept together")
    if not is_size(stored) or nbytes > min(MAX_BYTES, MAX_RATIO * stored):
        raise DamagedError(f"{nbytes} bytes cannot be encoded in {shown(stored)}")
    base = None
    if "base" in item:
        if depth <= 1:
            raise DamagedError(f"more than {MAX_DEPTH} chunks stand on one another")
        base = _decode_data(item["base"], ((), ()), nbytes, None, depth - 1)
        if base.encoding is not None and base.encoding.width not in (0, width):
            raise DamagedError("a chunk and its base have elements of different widths")
    return Encoding(PLANES, stored, item["checksum"], width, low, base)


def as_shape(value: Any) -> Shape:
    """A shape of JSON. Raises TypeError if it is none."""
    if not is_shape(value):
        raise TypeError(f"{value!r:.80} is no shape")
    return tuple(value)


def check_place(name: str, chunk: Chunk, file_sizes: list[int]) -> None:
    """Whether a chunk of the leaf `name`, and its bases, lie inside the files.

    Raises:
        DamagedError: one does not.
        VersionError: it is checked by an unknown algorithm.
    """
    if chunk.file >= len(file_sizes):
        raise DamagedError(f"leaf {name!r} lies in file {chunk.file} of {len(file_sizes)}")
    if chunk.end > file_sizes[chunk.file]:
        raise DamagedError(
            f"leaf {name!r} would end at byte {chunk.end}, "
            f"its file has {file_sizes[chunk.file]} bytes"
        )
    _check_digest(name, chunk.digest)
    _check_digest(name, chunk.checksum)
    if chunk.encoding is not None:
        _check_digest(name, chunk.encoding.checksum)
        if chunk.encoding.base is not None:
            check_place(name, chunk.encoding.base, file_sizes)


def _check_digest(name: str, value: object) -> None:
    if digest.is_usable(value):
        return
    if not digest.is_well_formed(value):
        raise DamagedError(f"leaf {name!r} has {value!r:.80} for a digest")
    raise VersionError(f"leaf {name!r} is checked by {value!r:.80}, unknown here: upgrade milepost")
