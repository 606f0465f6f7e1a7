"""GGUF files of tensors that are not quantised.

    "GGUF", version, number of tensors, number of key-value pairs, the pairs, the descriptions
    of the tensors, padding, their bytes, each at a multiple of 32

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from milepost.conversion.content import Content, Tensor
from milepost.conversion.writers import Options, Written
from milepost.conversion.writers.appending import new_file
from milepost.errors import UsageError
from milepost.limits import is_writable
from milepost.state import Plain

NAME = "a GGUF file"
KEEPS_METADATA = True
_VERSION, _ALIGNMENT = 3, 32
_ARCHITECTURE, _ALIGNMENT_KEY = "general.architecture", "general.alignment"
# enum ggml_type; there is no bool and no unsigned one.
_TYPES = {
    "float32": 0,
    "float16": 1,
    "int8": 24,
    "int16": 25,
    "int32": 26,
    "int64": 27,
    "float64": 28,
    "bfloat16": 30,
}
# GGML's own limits: GGML_MAX_NAME, with its final NUL, and GGML_MAX_DIMS.
_MAX_NAME, _MAX_AXES = 63, 4
# enum gguf_metadata_value_type
_BOOL, _STRING, _ARRAY, _UINT64, _INT64, _FLOAT64 = 7, 8, 9, 10, 11, 12


def holds(dtype: str) -> bool:
    return dtype in _TYPES


def keeps(name: str, value: Plain) -> bool:
    """As a key-value pair."""
    return name not in (_ARCHITECTURE, _ALIGNMENT_KEY) and _encoded(value) is not None


def write(path: str, content: Content, options: Options) -> Written:
    for tensor in content.tensors.values():
        _check(tensor)
    pairs, left = _pairs(content)
    head = _head(content, pairs)
    padding = -len(head) % _ALIGNMENT
    with new_file(path, len(head) + content.nbytes) as out:
        out.add(head + bytes(padding))
        for tensor in content.tensors.values():
            for data in tensor.data():
                out.add(data)
            out.add(bytes(-tensor.nbytes % _ALIGNMENT))
    notes = (f"metadata that GGUF has no form for: {', '.join(left)}",) if left else ()
    return Written((path,), notes)


def _check(tensor: Tensor) -> None:
    if len(tensor.name.encode()) > _MAX_NAME:
        raise UsageError(
            f"leaf {tensor.name!r} has a name of more than {_MAX_NAME} bytes, the most that GGUF's "
            "readers take: shorten it with --rename"
        )
    if len(tensor.shape) > _MAX_AXES:
        raise UsageError(
            f"leaf {tensor.name!r} has {len(tensor.shape)} axes, and GGUF's readers take "
            f"{_MAX_AXES} at most: leave it out with --drop {tensor.name!r}"
        )


def _pairs(content: Content) -> tuple[dict[str, bytes], list[str]]:
    """The encoded key-value pairs, and the keys of the metadata that have no form here."""
    metadata: dict[str, Any] = {_ARCHITECTURE: "unknown", **content.description.metadata}
    metadata.pop(_ALIGNMENT_KEY, None)
    pairs, left = {}, []
    for key, value in {**metadata, **content.values}.items():
        encoded = _encoded(value) if is_writable(key) else None
        if encoded is None:
            left.append(key)
        else:
            pairs[key] = encoded
    return pairs, left


def _head(content: Content, pairs: Mapping[str, bytes]) -> bytes:
    parts = [struct.pack("<4sIQQ", b"GGUF", _VERSION, len(content.tensors), len(pairs))]
    parts += [_text(key) + value for key, value in pairs.items()]
    offset = 0
    for name, tensor in content.tensors.items():
        axes = tensor.shape[::-1]  # the fastest first
        parts.append(_text(name) + struct.pack(f"<I{len(axes)}Q", len(axes), *axes))
        parts.append(struct.pack("<IQ", _TYPES[tensor.dtype], offset))
        offset += tensor.nbytes + -tensor.nbytes % _ALIGNMENT
    return b"".join(parts)


def _encoded(value: Any) -> bytes | None:
    """A value with its type; None for what GGUF has none for."""
    kind = _kind(value)
    if kind is not None:
        return struct.pack("<I", kind) + _bare(kind, value)
    if not isinstance(value, Sequence) or isinstance(value, bytes | str):
        return None
    kinds = {_kind(item) for item in value}
    if kinds == {_INT64, _UINT64} and min(value) >= 0:
        kinds = {_UINT64}
    if len(kinds) != 1 or None in kinds:
        return None
    [inner] = kinds
    assert inner is not None
    items = b"".join(_bare(inner, item) for item in value)
    return struct.pack("<IIQ", _ARRAY, inner, len(value)) + items


def _kind(value: Any) -> int | None:
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return _INT64 if value < 2**63 else _UINT64
    if isinstance(value, float):
        return _FLOAT64
    return _STRING if isinstance(value, str) and is_writable(value) else None


def _bare(kind: int, value: Any) -> bytes:
    if kind == _STRING:
        return _text(value)
    return struct.pack({_BOOL: "<?", _UINT64: "<Q", _INT64: "<q", _FLOAT64: "<d"}[kind], value)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
