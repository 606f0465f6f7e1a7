"""A PyTorch state dict as a pickle of protocol 2, written opcode by opcode.

Nothing is pickled by Python: these are the few opcodes that `torch.load(weights_only=True)`
reads. https://docs.pytorch.org/docs/stable/notes/serialization.html and
https://docs.python.org/3/library/pickletools.html
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable

from milepost.chunk import Shape
from milepost.state import Plain

# Dtypes that have a storage class of their own; the others have an UntypedStorage, and a name.
_STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}
_UNTYPED = {
    *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"),
    *("float8_e4m3fnuz", "float8_e5m2fnuz"),
}
DTYPES = _UNTYPED | _STORAGES.keys()
_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"
_MARK, _TUPLE, _REDUCE, _PERSISTENT, _FALSE = b"(", b"t", b"R", b"Q", b"\x89"


def state_dict(items: Iterable[tuple[str, bytes]]) -> bytes:
    """An OrderedDict of (key, what `value` or `tensor` made)."""
    body = b"".join(_text(key) + item for key, item in items)
    return b"\x80\x02" + _ORDERED_DICT + _MARK + body + b"u."


def tensor(dtype: str, shape: Shape, storage: str) -> bytes:
    """A contiguous tensor that is all of a storage."""
    count = math.prod(shape)
    typed = dtype in _STORAGES
    itemsize = _untyped_itemsize(dtype)
    reference = (
        _MARK
        + _text("storage")
        + (_name("torch", _STORAGES[dtype]) if typed else _name("torch.storage", "UntypedStorage"))
        + _text(storage)
        + _text("cpu")
        + _integer(count if typed else count * itemsize)
        + _TUPLE
        + _PERSISTENT
    )
    rebuild = "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3"
    strides = tuple(math.prod(max(n, 1) for n in shape[i + 1 :]) for i in range(len(shape)))
    return (
        _name("torch._utils", rebuild)
        + _MARK
        + reference
        + _integer(0)
        + _integers(shape)
        + _integers(strides)
        + _FALSE
        + _ORDERED_DICT
        + (b"" if typed else _name("torch", dtype))
        + _TUPLE
        + _REDUCE
    )


def value(plain: Plain) -> bytes:
    """A plain value."""
    if plain is None:
        return b"N"
    if isinstance(plain, bool):
        return b"\x88" if plain else _FALSE
    if isinstance(plain, int):
        return _integer(plain)
    if isinstance(plain, float):
        return b"G" + struct.pack(">d", plain)
    if isinstance(plain, str):
        return _text(plain)
    # Protocol 2 has no bytes: this is how it spells them.
    encoded = _text(plain.decode("latin-1")) + _text("latin1")
    return _name("_codecs", "encode") + _MARK + encoded + _TUPLE + _REDUCE


def _untyped_itemsize(dtype: str) -> int:
    return {"uint16": 2, "uint32": 4, "uint64": 8}.get(dtype, 1)


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(number: int) -> bytes:
    if -(2**31) <= number < 2**31:
        return b"J" + struct.pack("<i", number)
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    if len(data) < 256:
        return b"\x8a" + bytes([len(data)]) + data
    return b"\x8b" + struct.pack("<i", len(data)) + data


def _integers(numbers: Shape) -> bytes:
    return _MARK + b"".join(map(_integer, numbers)) + _TUPLE
