"""Filters: what was done to the bytes of a chunk before they were written, undone.

Nothing is loaded for them: those that HDF5 takes from plug-ins are refused.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from milepost.encodings.hdf5.image import Cursor

_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000
_OTHERS = {4: "szip", 5: "nbit", 6: "scaleoffset"}
# Each makes at most so many bytes of one: deflate by its format, LZF 264 of 3.
MAX_RATIO = 1040
_MOST_FILTERS = 8


@dataclass(frozen=True, slots=True)
class Filter:
    kind: int
    values: tuple[int, ...]


def read_filters(cursor: Cursor) -> tuple[Filter, ...]:
    """The filters of a dataset, in the order in which they were applied.

    Raises:
        UnknownFormatError: one of them is not HDF5's own.
    """
    version = cursor.version("filters", (1, 2))
    count = cursor.uint(1)
    cursor.skip(6 if version == 1 else 0)
    if count > _MOST_FILTERS:
        raise cursor.image.damaged(f"{count} filters")
    return tuple(_filter(cursor, version) for _ in range(count))


def _filter(cursor: Cursor, version: int) -> Filter:
    kind = cursor.uint(2)
    named = version == 1 or kind >= 256
    length = cursor.uint(2) if named else 0
    cursor.skip(2)
    count = cursor.uint(2)
    cursor.skip(-(-length // 8) * 8 if version == 1 else length)
    values = tuple(cursor.uints(count, 4))
    cursor.skip(4 if version == 1 and count % 2 else 0)
    if kind not in (_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF):
        raise cursor.image.unknown(f"the filter {_OTHERS.get(kind, f'number {kind}')}")
    return Filter(kind, values)


def undo(filters: tuple[Filter, ...], mask: int, data: bytes, size: int, itemsize: int) -> bytes:
    """The `size` bytes that the filters made `data` of.

    A bit of `mask` is set for each filter that was left out.

    Raises:
        ValueError: they did not.
    """
    for index in reversed(range(len(filters))):
        if mask >> index & 1:
            continue
        match filters[index].kind:
            case 1:
                inflater = zlib.decompressobj()
                try:
                    data = inflater.decompress(data, size + 4 * len(filters))
                except zlib.error as error:
                    raise ValueError(f"it cannot be inflated ({error})") from None
                if not inflater.eof:
                    raise ValueError("it is cut short, or inflates to more than a chunk")
            case 2:
                data = _unshuffle(data, next(iter(filters[index].values), itemsize))
            case 3:
                data = _checked(data)
            case _:
                data = _expand(data, size + 4 * len(filters))
    if len(data) != size:
        raise ValueError(f"expected {size} bytes, found {len(data)}")
    return data


def _unshuffle(data: bytes, width: int) -> bytes:
    """First bytes of elements lie together, then second ones, and so on; the rest as it is."""
    if width < 2 or len(data) < width:
        return data
    whole = len(data) // width * width
    planes = np.frombuffer(data, np.uint8, whole).reshape(width, -1)
    return planes.T.tobytes() + data[whole:]


def _checked(data: bytes) -> bytes:
    """Data without its Fletcher checksum of 32 bits, which is taken modulo 65535."""
    body, found = data[:-4], int.from_bytes(data[-4:], "little")
    words = np.frombuffer(body + b"\0" * (len(body) % 2), ">u2").astype(np.uint64)
    low = int(words.sum()) % 65535
    weights = np.arange(len(words), 0, -1, dtype=np.uint64) % 65535
    high = int((words * weights % 65535).sum()) % 65535
    if len(data) < 4 or ((found >> 16) % 65535, (found & 0xFFFF) % 65535) != (high, low):
        raise ValueError("its checksum does not match")
    return body


def _expand(data: bytes, most: int) -> bytes:
    """LZF's runs: literal bytes, or a length and a distance back.

    https://github.com/h5py/h5py/blob/master/lzf/lzf/lzf_d.c
    """
    result = bytearray()
    position = 0
    try:
        while position < len(data):
            control = data[position]
            position += 1
            if control < 32:
                literal = data[position : position + control + 1]
                if len(literal) != control + 1:
                    raise IndexError
                result += literal
                position += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += data[position]
                position += 1
            start = len(result) - ((control & 31) << 8) - data[position] - 1
            position += 1
            length += 2
            if start < 0 or len(result) + length > most:
                raise IndexError
            run = bytes(result[start : start + length])
            result += (run * (length // len(run) + 1))[:length]
    except IndexError:
        raise ValueError("it cannot be expanded") from None
    return bytes(result)
