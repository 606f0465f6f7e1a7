"""The safetensors container: a strict header in, a header out.

    8 bytes        N, little-endian
    N bytes        a JSON object: name -> {dtype, shape, data_offsets}, and __metadata__
    the rest       tensor data, without gaps

Source of the format: https://github.com/huggingface/safetensors#format. We read it more
strictly than it is written there: a header that is not exactly right is refused before
anything is allocated, because a flipped bit and an attack look the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from milepost.errors import DamagedError, UsageError
from milepost.jsontext import dumps, quoted, sizes
from milepost.light import light
from milepost.limits import is_shape, is_sizes, is_writable
from milepost.source import ByteSource, read_exactly

# The limit that every safetensors reader has.
MAX_HEADER_BYTES = 100_000_000
# Data starts at a multiple of this, so that a mapped array is aligned to a cache line.
ALIGNMENT = 64

_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


@light
class TensorEntry:
    """One tensor of a header: its safetensors dtype code, shape, and place in the file."""

    code: str
    shape: tuple[int, ...]
    offset: int  # from the start of the file
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    tensors: dict[str, TensorEntry]  # in the order of their data
    metadata: dict[str, str]
    raw: bytes  # the length and the JSON text, as they lie in the file


def read_header(source: ByteSource) -> Header:
    """The header of the safetensors file in `source`.

    Raises:
        DamagedError: it is not a valid one; the message says what is wrong.
    """
    if source.size < 8:
        raise _invalid(source, f"it has {source.size} bytes, and a header alone has 8 at least")
    length_field = read_exactly(source, 0, 8)
    length = int.from_bytes(length_field, "little")
    if length > MAX_HEADER_BYTES or 8 + length > source.size:
        raise _invalid(source, f"its header claims {length} bytes, the file has {source.size}")
    text = bytes(read_exactly(source, 8, length))
    document = _parse(source, text)
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _invalid(source, "__metadata__ is not a mapping of strings")
    tensors = _check(source, document, data_start=8 + length)
    return Header(tensors, metadata, bytes(length_field) + text)


def build_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...], int]],
    metadata: Mapping[str, str],
    alignment: int = ALIGNMENT,
) -> tuple[bytes, int]:
    """The header of a file that holds `tensors` (name, code, shape, nbytes) in this order.

    Returns the header, padded to `alignment`, and the length of the data that follows it.
    """
    members = [f'"__metadata__":{dumps(dict(metadata))}'] if metadata else []
    names, end = {"__metadata__"}, 0
    for name, code, shape, nbytes in tensors:
        if name in names:
            raise UsageError(f"a safetensors file cannot hold a second tensor {name!r}: rename it")
        names.add(name)
        start, end = end, end + nbytes
        members.append(
            f'{quoted(name)}:{{"dtype":"{code}","shape":{sizes(shape)},'
            f'"data_offsets":[{start},{end}]}}'
        )
    text = f"{{{','.join(members)}}}".encode()
    text += b" " * (-(8 + len(text)) % alignment)
    return len(text).to_bytes(8, "little") + text, end


def _parse(source: ByteSource, text: bytes) -> dict[str, Any]:
    def object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key appears twice")
        return result

    # The format asks for it; it also keeps out a byte order mark.
    if not text.startswith(b"{"):
        raise _invalid(source, "its header is not a JSON object")
    try:
        document = json.loads(text.decode(), object_pairs_hook=object_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _invalid(source, f"its header is not valid JSON ({error})") from None
    if not isinstance(document, dict):
        raise _invalid(source, "its header is not a JSON object")
    return document


def _check(source: ByteSource, document: dict[str, Any], data_start: int) -> dict[str, TensorEntry]:
    """The entries of a header, once they are known to cover the file without gap or overlap."""
    spans = []
    for name, entry in document.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise _invalid(
                source, f"tensor {name!r} is not described by dtype, shape, data_offsets"
            )
        code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(code, str) or code not in _BITS:
            raise _invalid(source, f"tensor {name!r} has the unknown dtype {code!r}")
        if not is_sizes(shape) or not is_sizes(offsets) or len(offsets) != 2:
            raise _invalid(source, f"tensor {name!r} has a shape or offsets that are no sizes")
        if not is_shape(shape):
            raise _invalid(source, f"tensor {name!r} has a shape too large ({len(shape)} axes)")
        if not is_writable(name):
            raise _invalid(source, f"tensor {name!r} has a name that is no text")
        begin, end = offsets
        bits = math.prod(shape) * _BITS[code]
        if bits != (end - begin) * 8:
            raise _invalid(
                source, f"tensor {name!r}: {code}{shape} does not have {end - begin} bytes"
            )
        spans.append(
            (begin, end, name, TensorEntry(code, tuple(shape), data_start + begin, end - begin))
        )
    spans.sort(key=lambda span: span[:2])
    position = 0
    for begin, end, name, _ in spans:
        if begin != position:
            raise _invalid(
                source, f"tensor {name!r} starts at {begin}, the one before ends at {position}"
            )
        position = end
    if data_start + position != source.size:
        raise _invalid(
            source,
            f"its tensors end at byte {data_start + position}, the file has {source.size} bytes",
        )
    return {name: entry for _, _, name, entry in spans}


def _invalid(source: ByteSource, reason: str) -> DamagedError:
    return DamagedError(f"{source.name} is no valid safetensors file: {reason}")
