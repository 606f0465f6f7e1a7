"""What the metadata of a Zarr array says: `.zarray` in version 2, `zarr.json` in version 3."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from milepost import dtypes
from milepost.encodings.compressed import CODECS
from milepost.errors import DamagedError, UnsupportedObjectError, VersionError
from milepost.limits import is_shape, shown

NAMES = {2: ".zarray", 3: "zarr.json"}
# A type of version 2, as NumPy writes it: its byte order, its kind and its size.
_TYPE = re.compile(r"[<>|=]?[a-zA-Z][0-9]{1,9}(\[\w{1,16}\])?", re.ASCII)
_ZEROS = (None, 0, False, [0, 0])


@dataclass(frozen=True, slots=True)
class Layout:
    """How an array lies in chunks.

    Attributes:
        dtype: of the numbers as they lie, of either byte order.
        chunk: the shape of what is compressed at once. Those at the edges reach beyond it.
        shard: the shape of what is stored at once, if that is several chunks with an index.
        codecs: names of `encodings.compressed`, in the order of writing.
        index_first: whether a shard's index is before its chunks.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    codecs: tuple[str, ...]
    separator: str
    version: int
    order: Literal["C", "F"] = "C"
    shard: tuple[int, ...] | None = None
    index_first: bool = False
    fill_is_zero: bool = True

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def chunk_nbytes(self) -> int:
        return math.prod(self.chunk) * self.dtype.itemsize

    def key(self, index: tuple[int, ...]) -> str:
        """The key of a chunk, or of a shard."""
        numbers = [str(i) for i in index]
        if self.version == 2:
            return self.separator.join(numbers or ["0"])
        return self.separator.join(["c", *numbers])


def parse(version: int, metadata: Any, name: str) -> Layout:
    """The layout that the metadata of an array describes.

    Raises:
        DamagedError: it describes none.
        VersionError: it uses what is unknown here.
    """
    try:
        if metadata["zarr_format"] != version:
            raise ValueError(f"zarr_format is {shown(metadata['zarr_format'])}")
        return (_parse_v2 if version == 2 else _parse_v3)(metadata, name)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise DamagedError(f"{name} describes no array of Zarr's: {problem:.200}") from None


def _parse_v2(metadata: Mapping[str, Any], name: str) -> Layout:
    shape = _shape(metadata["shape"])
    compressor = metadata["compressor"]
    codecs = [] if compressor is None else [compressor["id"]]
    if metadata.get("filters"):
        raise VersionError(f"{name} has filters, which milepost does not read")
    order = metadata["order"]
    if order not in ("C", "F"):
        raise ValueError(f"the order is {shown(order)}")
    return Layout(
        _dtype(metadata["dtype"], name),
        shape,
        _chunk(metadata["chunks"], shape),
        _known(codecs, name),
        _separator(metadata.get("dimension_separator", ".")),
        2,
        order,
        fill_is_zero=metadata["fill_value"] in _ZEROS,
    )


def _parse_v3(metadata: Mapping[str, Any], name: str) -> Layout:
    shape = _shape(metadata["shape"])
    grid, encoding = metadata["chunk_grid"], metadata["chunk_key_encoding"]
    if grid["name"] != "regular" or encoding["name"] not in ("default", "v2"):
        raise VersionError(f"{name} has a grid of chunks that is unknown here")
    default = encoding["name"] == "default"
    separator = encoding.get("configuration", {}).get("separator", "/" if default else ".")
    chunk = _chunk(grid["configuration"]["chunk_shape"], shape)
    codecs, shard, first = metadata["codecs"], None, False
    if codecs[0]["name"] == "sharding_indexed" and len(codecs) == 1:
        sharding = codecs[0]["configuration"]
        codecs, shard, chunk = sharding["codecs"], chunk, _chunk(sharding["chunk_shape"], shape)
        if any(n % m for n, m in zip(shard, chunk, strict=True)):
            raise ValueError("its shards are no multiple of their chunks")
        if [codec["name"] for codec in sharding["index_codecs"]] != ["bytes", "crc32c"]:
            raise VersionError(f"{name} has an index of shards that is unknown here")
        first = sharding.get("index_location", "end") == "start"
    if codecs[0]["name"] != "bytes":
        raise VersionError(f"{name} has the codec {shown(codecs[0]['name'])}, unknown here")
    big = codecs[0].get("configuration", {}).get("endian") == "big"
    dtype = _dtype(metadata["data_type"], name)
    return Layout(
        dtype.newbyteorder(">") if big else dtype,
        shape,
        chunk,
        _known([codec["name"] for codec in codecs[1:]], name),
        _separator(separator),
        2 if not default else 3,
        shard=shard,
        index_first=first,
        fill_is_zero=metadata["fill_value"] in _ZEROS,
    )


def _shape(value: Any) -> tuple[int, ...]:
    if not is_shape(value):
        raise ValueError(f"{shown(value)} is no shape")
    return tuple(value)


def _chunk(value: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    chunk = _shape(value)
    if len(chunk) != len(shape) or 0 in chunk:
        raise ValueError(f"{shown(value)} is no chunk of {list(shape)}")
    return chunk


def _separator(value: Any) -> str:
    if value not in (".", "/"):
        raise ValueError(f"{shown(value)} is no separator")
    return str(value)


def _known(codecs: list[Any], name: str) -> tuple[str, ...]:
    unknown = [codec for codec in codecs if codec not in CODECS]
    if unknown or len(codecs) > len(CODECS):
        raise VersionError(f"{name} has the codec {shown([*unknown, *codecs][0])}, unknown here")
    return tuple(codecs)


def _dtype(value: Any, name: str) -> np.dtype[Any]:
    """Of version 2's names (`"<f4"`, `"bfloat16"`), or version 3's (`"float32"`)."""
    if not isinstance(value, str) or len(value) > 40:
        raise ValueError(f"{shown(value)} is no dtype")
    try:
        return dtypes.numpy_dtype(value)
    except KeyError:
        pass
    unknown = VersionError(f"{name} has the dtype {value!r}, which milepost does not know")
    if not _TYPE.fullmatch(value):  # NumPy would look for a list of types with counts in it
        raise unknown
    try:
        dtype = np.dtype(value)
        dtypes.dtype_name(dtype)
    except (TypeError, ValueError, UnsupportedObjectError):
        raise unknown from None
    return dtype
