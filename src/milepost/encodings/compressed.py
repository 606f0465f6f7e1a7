"""Blocks of compressed bytes, undone by TensorStore: the codecs of Zarr, which Python lacks.

TensorStore gets these bytes from memory and gives others back. It sees no path, no name and
no metadata of a file, and decodes no more than the number of bytes that it is asked for.

https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html
"""

from __future__ import annotations

import struct
from typing import Any

from milepost.dtypes import Array
from milepost.errors import DamagedError, MissingPackageError

CODECS = ("zstd", "gzip", "blosc", "crc32c")
# Zstandard's smallest block has 4 bytes, its largest content 128 KiB: the most of them all.
MAX_RATIO = 1 << 15

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_ZSTD_METHOD = 93


def decompress(codecs: tuple[str, ...], data: bytes, size: int, name: str) -> Array:
    """The `size` bytes to which the codecs, in the order of writing, made `data`.

    Raises:
        DamagedError: it is not valid, or there are more bytes, or fewer.
    """
    tensorstore = _tensorstore()
    # The only codec here that allocates what its own header says.
    if codecs[-1:] == ("blosc",) and data[4:8] != size.to_bytes(8, "little")[:4]:
        raise DamagedError(f"{name} is damaged: not {size} bytes of Blosc")
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [size],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [size]}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}, *({"name": codec} for codec in codecs)],
    }
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "memory"},
        "metadata": metadata,
        "open": True,
        "assume_metadata": True,
        "fill_missing_data_reads": False,
    }
    try:
        context = tensorstore.Context()
        memory = tensorstore.KvStore.open({"driver": "memory"}, context=context).result()
        memory["c/0"] = data
        opened = tensorstore.open(spec, context=context).result()
        result: Array = opened.read().result()
    except Exception as error:  # TensorStore has no class of errors of its own
        raise DamagedError(f"{name} is damaged: {error!s:.200}") from None
    return result


def decompress_zstd(data: bytes, most: int, name: str) -> bytes:
    """What a Zstandard frame of unknown size holds; of a damaged one, what is readable of it.

    Raises:
        DamagedError: it holds nothing, or more than `most` bytes.
    """
    reach = _Prefixes(data)
    low, high = 0, min(most, 1 << 16)
    while reach.has(high):
        if high == most:
            raise DamagedError(f"{name} is damaged: it holds more than {most} bytes")
        low, high = high, min(most, high * 4)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if reach.has(middle) else (low, middle)
    if low == 0:
        raise DamagedError(f"{name} is damaged: expected Zstandard, found {data[:4]!r}")
    return reach.read(low)


class _Prefixes:
    """The first so many bytes of what a Zstandard frame holds, if it holds as many.

    A zip archive may have Zstandard members. It says how large each is, and TensorStore
    decodes to there and no further: so it tells whether there are at least as many.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data

    def has(self, size: int) -> bool:
        try:
            return len(self._decoded(size)) == size
        except Exception:  # TensorStore has no class of errors of its own
            return False

    def read(self, size: int) -> bytes:
        return bytes(self._decoded(size))

    def _decoded(self, size: int) -> Any:
        tensorstore = _tensorstore()
        context = tensorstore.Context()
        memory = tensorstore.KvStore.open({"driver": "memory"}, context=context).result()
        memory["zip"] = _zip_archive(self._data, size)
        base = {"driver": "memory", "path": "zip"}
        archive = tensorstore.KvStore.open({"driver": "zip", "base": base}, context=context)
        return archive.result()["x"]


def _zip_archive(data: bytes, size: int) -> bytes:
    """An archive with one member `x`, which is `data`, and is said to hold `size` bytes."""
    common = (_ZSTD_METHOD, 0, 0x21, 0, len(data), size, 1)
    local = _LOCAL.pack(b"PK\x03\x04", 63, 0, *common, 0) + b"x"
    central = _CENTRAL.pack(b"PK\x01\x02", 63, 63, 0, *common, 0, 0, 0, 0, 0, 0) + b"x"
    start = len(local) + len(data)
    end = _END.pack(b"PK\x05\x06", 0, 0, 1, 1, len(central), start, 0)
    return local + data + central + end


def _tensorstore() -> Any:
    try:
        import tensorstore
    except ImportError:
        raise MissingPackageError(
            "Orbax checkpoints are compressed with Zstandard, which needs the package "
            "tensorstore: pip install 'milepost[formats]'"
        ) from None
    return tensorstore
