"""What the calls in a PyTorch pickle stand for: an allowlist, and symbols of our own.

https://github.com/pytorch/pytorch/blob/main/torch/_utils.py

Nothing is called. A call of a function that is not known here is refused, whatever it is. The
class of an object may be any: the object stays a call that is `new`, its attributes a mapping.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from milepost.encodings.pickle import Call, Global, PersistentId, described
from milepost.errors import DamagedError, UntrustedError
from milepost.formats.numpy_pickles import CALLS
from milepost.formats.torch_values import DTYPES, Held, LeftOut, Storage, Tensor, itemsize
from milepost.limits import is_shape, is_size

_MAX_COPIED = 128 << 20
STORAGES = {
    "Bool": "bool",
    "Byte": "uint8",
    "Char": "int8",
    "Short": "int16",
    "Int": "int32",
    "Long": "int64",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Float": "float32",
    "Double": "float64",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
    "QInt8": "qint8",
    "QUInt8": "quint8",
    "QInt32": "qint32",
    "QUInt4x2": "quint4x2",
    "QUInt2x4": "quint2x4",
}


@dataclass(slots=True)
class Builder:
    """Turns what a pickle calls into the above. `file` is what messages call it."""

    file: str
    storages: dict[str, Storage] = field(default_factory=dict)
    _copied: int = 0

    def __call__(self, node: Call | PersistentId) -> object:
        try:
            if isinstance(node, PersistentId):
                return self._persistent(node.value)
            return self._call(node)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            if isinstance(error, UntrustedError):
                raise
            raise DamagedError(
                f"{self.file}: its pickle is not valid at offset {node.offset}: {error!s:.200}"
            ) from None

    def _persistent(self, value: Any) -> object:
        if isinstance(value, tuple) and len(value) == 4 and value[0] == "module":
            return value[1]  # files of before 2021 have a class with its source
        if not isinstance(value, tuple) or len(value) not in (5, 6) or value[0] != "storage":
            raise ValueError(f"{described(value)} is no storage")
        _, cls, key, _, numel = value[:5]
        storage = Storage(str(_checked(key, str)), _storage_dtype(cls), _natural(numel))
        known = self.storages.setdefault(storage.key, storage)
        if known.nbytes != storage.nbytes:
            raise ValueError(f"storage {storage.key!r:.80} has two sizes")
        if len(value) == 6 and value[5] is not None:
            _, start, length = value[5]
            if _natural(start) + _natural(length) > storage.numel:
                raise ValueError(f"a view is outside of storage {storage.key!r:.80}")
            return Storage(storage.key, storage.dtype, storage.numel, start)
        return storage

    def _call(self, call: Call) -> object:
        if isinstance(call.function, Global):
            name = str(call.function)
            if name in _SPECIAL:
                return _SPECIAL[name](self, call)
            if name in _KNOWN and not call.kwargs:
                return self._known(name, call)
            if name in CALLS or (call.new and name not in _TENSOR_CLASSES):
                return call
        raise self._refused(call)

    def _refused(self, call: Call) -> UntrustedError:
        return UntrustedError(
            f"{self.file}: its pickle calls {described(call.function)} at offset {call.offset}, "
            "which is no part of a model's weights: do not load it with torch.load, either. If "
            "you trust whoever made it, save its state_dict() with torch.save"
        )

    def _known(self, name: str, call: Call) -> object:
        """What a known call makes. The same long text or list may be copied only so often."""
        for arg in call.args:
            if isinstance(arg, str | bytes | bytearray):
                self._copied += len(arg)
            elif isinstance(arg, list | tuple | dict | set | frozenset):
                self._copied += 16 * len(arg)
        if self._copied > _MAX_COPIED:
            raise UntrustedError(f"{self.file}: its pickle makes more than {_MAX_COPIED:,} bytes")
        return _KNOWN[name](*call.args)

    def _object(self, call: Call) -> Call:
        """What `copyreg` would make: an object without its state."""
        cls, *rest = call.args
        if not isinstance(cls, Global):
            raise self._refused(call)
        made = Call(cls, (), {}, True, call.offset)
        base = rest[1] if len(rest) == 2 else None  # of a dict's or a list's subclass
        if isinstance(base, dict):
            made.pairs = list(base.items())
        elif isinstance(base, list):
            made.items = base
        self._copied += 16 * len(made.pairs)
        return made

    def _from_type(self, call: Call) -> object:
        """A tensor of a class of its own: without the class, where that changes nothing."""
        function, cls, args, _ = call.args
        inner = Call(function, _checked(args, tuple), {}, False, call.offset)
        if not isinstance(function, Global) or str(function) not in _KNOWN:
            raise self._refused(inner)
        value = self._known(str(function), inner)
        if isinstance(cls, Global) and str(cls) in _TENSOR_CLASSES:
            return value
        if isinstance(value, Tensor):
            return dataclasses.replace(value, kind=f"{cls!s:.200} {value.kind}".strip())
        return value


_SPECIAL: Mapping[str, Callable[[Builder, Call], object]] = {
    "torch._tensor._rebuild_from_type_v2": Builder._from_type,
    **{
        f"{module}.{name}": Builder._object
        for module in ("copyreg", "copy_reg")
        for name in ("_reconstructor", "__newobj__")
    },
}
_TENSOR_CLASSES = {
    "torch.Tensor",
    "torch._C.TensorBase",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
    "torch._tensor.Tensor",
}


# Checks


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{described(value)} is no {kind.__name__}")
    return value


def _natural(value: Any) -> int:
    if not is_size(value):
        raise ValueError(f"{described(value)} is no size")
    return value


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or not is_shape(list(value)):
        raise ValueError(f"{described(value)} is no shape")
    return tuple(value)


def _dtype(value: Any) -> str:
    if isinstance(value, Global) and value.module == "torch" and value.name in DTYPES:
        return value.name
    raise ValueError(f"{described(value)} is no dtype known here: a newer milepost may know it")


def _storage_dtype(cls: Any) -> str:
    if isinstance(cls, Global) and cls.module in ("torch", "torch.cuda", "torch.storage"):
        if cls.name == "UntypedStorage":
            return "uint8"
        if cls.name.removesuffix("Storage") in STORAGES:
            return STORAGES[cls.name.removesuffix("Storage")]
    raise ValueError(f"{described(cls)} is no kind of storage known here")


# Tensors


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, *rest: Any, dtype: str | None = None
) -> Tensor:
    _checked(storage, Storage)
    bits = rest[2] if len(rest) > 2 and isinstance(rest[2], dict) else {}
    own = dtype or storage.dtype
    strides = _checked(tuple(stride), tuple)
    shape = _shape(size)
    if len(strides) != len(shape) or not all(map(is_size, strides)):
        raise ValueError(f"{described(stride)} are no strides of the shape {list(shape)}")
    start = _natural(offset)
    if storage.start:
        start += storage.start * itemsize(storage.dtype) // itemsize(own)
    return Tensor(
        storage, own, start, shape, strides, "", bits.get("conj") is True, bits.get("neg") is True
    )


def _tensor_v3(*args: Any) -> Tensor:
    """As the others, of a dtype that has no storage of its own."""
    where, (dtype, *rest) = args[:6], args[6:]
    return _tensor(*where, *rest, dtype=_dtype(dtype))


def _quantised(storage: Any, offset: Any, size: Any, stride: Any, how: Any, *_: Any) -> object:
    raw = _tensor(storage, offset, size, stride)
    scheme = str(_checked(how[0], Global))
    if scheme == "torch.per_tensor_affine":
        scale, zero = how[1], how[2]
        kind = f"{raw.dtype}, scale {float(scale)!r}, zero point {int(zero)}"
        return dataclasses.replace(raw, kind=kind)
    if scheme.startswith("torch.per_channel_affine"):
        names = ("int_repr", "scales", "zero_points", "axis")
        return dict(zip(names, (raw, *how[1:4]), strict=True))
    raise ValueError(f"{described(how)} is no way to quantise that is known here")


_PARTS = {
    "torch.sparse_coo": ("indices", "values"),
    "torch.sparse_csr": ("crow_indices", "col_indices", "values"),
    "torch.sparse_bsr": ("crow_indices", "col_indices", "values"),
    "torch.sparse_csc": ("ccol_indices", "row_indices", "values"),
    "torch.sparse_bsc": ("ccol_indices", "row_indices", "values"),
}


def _sparse(layout: Any, data: Any) -> dict[str, object]:
    names = _PARTS[_checked(layout, str)]
    parts, size = data[: len(names)], data[len(names)]
    if not all(isinstance(part, Tensor) for part in parts):
        raise TypeError("the parts of a sparse tensor are no tensors")
    shape = Held(np.array(_shape(size), np.int64))
    return {**dict(zip(names, parts, strict=True)), "shape": shape}


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _left_out(why: str) -> Callable[..., LeftOut]:
    return lambda *_: LeftOut(why)


def _device_numpy(data: Any, dtype: Any, *_: Any) -> Any:
    return data  # the array of a device that has its own kind of storage


# Python's and NumPy's own


def _bytes_of(text: Any, encoding: Any = "latin1") -> bytes:
    if (
        encoding not in ("latin1", "latin-1", "utf-8", "ascii")
        or len(_checked(text, str)) > 1 << 27
    ):
        raise ValueError(f"bytes in the encoding {described(encoding)}")
    return str(_checked(text, str)).encode(encoding)


def _bytes(*args: Any) -> bytes:
    return bytes(_checked(args[0], bytes)) if args else b""


def _mapping(*args: Any) -> dict[Any, Any]:
    """The items of an ordered dict come afterwards, or in Python 2 as a list of pairs."""
    if not args:
        return {}
    items = args[0].items() if isinstance(args[0], dict) else args[0]
    result = {}
    for key, value in items:
        if not isinstance(key, str | int | float | bytes) or (
            isinstance(key, int) and key.bit_length() > 64
        ):
            raise TypeError("a dict with such keys")
        result[key] = value
    return result


def _defaultdict(_: Any = None, *args: Any) -> dict[Any, Any]:
    return _mapping(*args)


def _sequence(*args: Any) -> list[Any]:
    return list(_checked(args[0], list | tuple)) if args else []  # type: ignore[arg-type]


def _path(*parts: Any) -> str:
    return "/".join(str(_checked(part, str)) for part in parts)


def _text_of(*args: Any) -> str:
    return ", ".join(described(arg).strip("'") for arg in args[:3])


def _device(kind: Any, index: Any = None) -> str:
    return described(kind).strip("'") + ("" if index is None else f":{described(index)}")


def _complex(real: Any, imaginary: Any) -> Held:
    return Held(np.array(complex(float(real), float(imaginary))))


_PYTHON = ("builtins", "__builtin__")
_BUILTINS: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(("set", "frozenset", "list", "tuple"), _sequence),
    **dict.fromkeys(("bytes", "bytearray"), _bytes),
    "dict": _mapping,
    "complex": _complex,
    "slice": _text_of,
    "range": _text_of,
}
_Make: TypeAlias = Callable[..., Any]
_META = "it was on the meta device, and has no numbers"
_WRAPPED = "it is of a class that wraps other tensors: save what it wraps"
_KNOWN: Mapping[str, _Make] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_sparse_csr_tensor": _sparse,
    "torch._utils._rebuild_meta_tensor_no_storage": _left_out(_META),
    "torch._utils._rebuild_wrapper_subclass": _left_out(_WRAPPED),
    "torch._utils._rebuild_nested_tensor": lambda buffer, *rest: dict(
        zip(("values", "sizes", "strides", "offsets"), (buffer, *rest), strict=True)
    ),
    "torch._utils._rebuild_device_tensor_from_numpy": _device_numpy,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _device_numpy,
    "torch._utils._rebuild_xla_tensor": _device_numpy,
    "torch.Size": lambda *args: tuple(args[0]) if args else (),
    "torch.device": _device,
    "torch.serialization._get_layout": lambda name: str(_checked(name, str)),
    **dict.fromkeys(
        (f"torch.jit._pickle.build_{kind}list" for kind in ("int", "bool", "double", "tensor")),
        _sequence,
    ),
    "torch.jit._pickle.restore_type_tag": lambda value, _: value,
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": _defaultdict,
    "collections.deque": _sequence,
    "_codecs.encode": _bytes_of,
    **{f"{module}.{name}": _BUILTINS[name] for module in _PYTHON for name in _BUILTINS},
    **{
        f"{module}.{flavour}{kind}": _path
        for module in ("pathlib", "pathlib._local")
        for flavour in ("", "Pure", "Posix", "Windows", "PurePosix", "PureWindows")
        for kind in ("Path",)
    },
    "pathlib.PurePath": _path,
    "decimal.Decimal": _text_of,
    "fractions.Fraction": _text_of,
}
