"""TFLite models (LiteRT): the tensors that have data, under the names that the file gives them.

A name that stands there twice gets `#2`; where there are several subgraphs, each is a folder.
Quantised tensors are integers, and `dequantised` gives the numbers that they stand for.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from milepost.dtypes import STRING, Array
from milepost.encodings.pages import Pages
from milepost.errors import DamagedError, VersionError
from milepost.formats.arrays import stored_array
from milepost.formats.flat import Flat, as_dtype, flat_array, packed, window
from milepost.formats.place import Place
from milepost.formats.tflite_model import Quantization, Tensor, parse
from milepost.limits import is_shape
from milepost.record import PlainRecord, Record
from milepost.snapshot import Description, Snapshot, closing_on_error
from milepost.source import ByteSource, read_exactly

_IDENTIFIER = b"TFL3"
_STRING = 5
# By the number of its type, the dtype of a tensor and the bits of an element.
TYPES = {
    **{0: ("float32", 32), 1: ("float16", 16), 2: ("int32", 32), 3: ("uint8", 8)},
    **{4: ("int64", 64), 5: (STRING, 0), 6: ("bool", 8), 7: ("int16", 16)},
    **{8: ("complex64", 64), 9: ("int8", 8), 10: ("float64", 64), 11: ("complex128", 128)},
    **{12: ("uint64", 64), 15: ("uint32", 32), 16: ("uint16", 16), 17: ("int4", 4)},
    **{18: ("bfloat16", 16), 19: ("int2", 2), 20: ("uint4", 4)},
}
_MAX_STRINGS_BYTES, _MAX_SCALAR_BYTES = 64 << 20, 16 << 20


def recognises(place: Place) -> bool:
    """The identifier of its FlatBuffers schema."""
    return place.start[4:8] == _IDENTIFIER


def open_place(place: Place) -> Snapshot:
    """The snapshot in a TFLite file.

    Raises:
        DamagedError: it is not valid.
        VersionError: it has tensors of a type that is unknown here, or in other files.
    """
    source = place.open()
    with closing_on_error([source]):
        model = parse(Pages(source))
        for name, tensor in model.tensors.items():
            _check(source.name, name, tensor)
        scalars = [t for t in model.tensors.values() if t.type == _STRING and not t.shape]
        if sum(tensor.nbytes for tensor in scalars) > _MAX_SCALAR_BYTES:
            raise DamagedError(f"{source.name} has strings that are too long")
        about = dict(model.about)
        for key in ("inputs", "outputs"):
            about[key] = [
                {"name": item["name"], "dtype": _type_name(item["type"]), "shape": item["shape"]}
                for item in about[key]
            ]
        return TFLiteSnapshot(source, model.tensors, Description("TFLite", about))


class TFLiteSnapshot(Snapshot):
    """The constant tensors of a TFLite model."""

    def __init__(
        self, source: ByteSource, tensors: dict[str, Tensor], description: Description
    ) -> None:
        self._tensors = tensors
        records = {name: _record(source, tensor) for name, tensor in tensors.items()}
        super().__init__(source.name, records, [source], description)

    def facts(self) -> dict[str, Any]:
        quantised = sum(_is_quantised(tensor) for tensor in self._tensors.values())
        return {
            "format": self.description.format,
            **self.metadata,
            "quantised": quantised,
            "bytes": self.nbytes,
        }

    def dequantised(self) -> Snapshot:
        """The same, with what is quantised as float32: `(integer - zero point) * scale`."""
        records = dict(self._records)
        for name, tensor in self._tensors.items():
            if _is_quantised(tensor) and tensor.quantization is not None:
                dtype, _ = TYPES[tensor.type]
                flat = _dequantised(_flat(self._files[0], tensor), tensor, tensor.quantization)
                kind = _kind(dtype, tensor.quantization)
                shape = tuple(tensor.shape)
                records[name] = flat_array("float32", shape, flat, kind, tensor.nbytes)
        return Snapshot(self.name, records, self._files, self.description)


def _check(file: str, name: str, tensor: Tensor) -> None:
    """Whether the tensor's bytes are those that its type and shape need."""
    if not is_shape(tensor.shape):
        raise DamagedError(f"{file}: the tensor {name!r} has {tensor.shape!r:.80} for its shape")
    if tensor.type not in TYPES:
        raise VersionError(
            f"{file}: the tensor {name!r} is of the type {tensor.type}, which is unknown here: "
            "upgrade milepost"
        )
    dtype, bits = TYPES[tensor.type]
    nbytes = -(-math.prod(tensor.shape) * bits // 8)
    if tensor.sparse or dtype == STRING or tensor.nbytes == nbytes:
        _check_strings(file, name, tensor)
        return
    raise DamagedError(
        f"{file}: the tensor {name!r} is damaged: {dtype}{tensor.shape} has {nbytes} bytes, found "
        f"{tensor.nbytes}"
    )


def _check_strings(file: str, name: str, tensor: Tensor) -> None:
    """Each has an offset of four bytes; which are sound is found when they are read."""
    if tensor.type != _STRING or tensor.sparse:
        return
    if not 8 + 4 * math.prod(tensor.shape) <= tensor.nbytes <= _MAX_STRINGS_BYTES:
        raise DamagedError(
            f"{file}: the tensor {name!r} has {tensor.nbytes:,} bytes for the strings of "
            f"{tensor.shape}"
        )


def _record(source: ByteSource, tensor: Tensor) -> Record:
    dtype, bits = TYPES[tensor.type]
    shape = tuple(tensor.shape)
    if tensor.sparse:
        kind = f"sparse {dtype} {tensor.shape}"
        read = window(source, tensor.position)
        return flat_array(
            "uint8", (tensor.nbytes,), lambda a, b: np.frombuffer(read(a, b), np.uint8), kind
        )
    if dtype == STRING:
        strings = _strings(source, tensor)
        if not shape:
            return PlainRecord(strings(0, 1)[0])
        return flat_array(STRING, shape, strings, stored=tensor.nbytes)
    if bits < 8 or _is_quantised(tensor):
        kind = _kind(dtype, tensor.quantization) if _is_quantised(tensor) else ""
        return flat_array(dtype, shape, _flat(source, tensor), kind, tensor.nbytes)
    return stored_array(dtype, shape, tensor.position)


def _flat(source: ByteSource, tensor: Tensor) -> Flat:
    dtype, bits = TYPES[tensor.type]
    read = window(source, tensor.position)
    if bits < 8:
        return packed(dtype, bits, read)
    size = bits // 8
    return lambda first, stop: as_dtype(read(first * size, stop * size), dtype)


def _strings(source: ByteSource, tensor: Tensor) -> Flat:
    """A count, as many offsets and that of the end, then the bytes of all."""
    size = math.prod(tensor.shape)

    def flat(first: int, stop: int) -> Array:
        data = read_exactly(source, tensor.position, tensor.nbytes)
        count, *offsets = struct.unpack_from(f"<{size + 2}i", data)
        ordered = offsets == sorted(offsets)
        if count != size or offsets[0] < 4 * size + 8 or offsets[-1] > len(data) or not ordered:
            raise DamagedError(f"{source.name} is damaged: its strings lie outside of their tensor")
        result: Array = np.empty(stop - first, object)
        for index in range(first, stop):
            result[index - first] = bytes(data[offsets[index] : offsets[index + 1]])
        return result

    return flat


def _is_quantised(tensor: Tensor) -> bool:
    """Whether its numbers can be told: integers, with a scale for all or for each index."""
    found = tensor.quantization
    if found is None or tensor.sparse or TYPES[tensor.type][0] == STRING:
        return False
    if "int" not in TYPES[tensor.type][0]:
        return False
    count = len(found.scales)
    fits = count == 1 or (0 <= found.axis < len(tensor.shape) and tensor.shape[found.axis] == count)
    return fits and len(found.zero_points) in (1, count)


def _dequantised(integers: Flat, tensor: Tensor, found: Quantization) -> Flat:
    # In float64, where the product is exact, and then rounded once.
    scales = found.scales.astype(np.float64)
    zero_points = found.zero_points.astype(np.float64)
    inner = math.prod(tensor.shape[found.axis + 1 :]) if len(scales) > 1 else 1

    def flat(first: int, stop: int) -> Array:
        index = np.arange(first, stop) // inner % len(scales) if len(scales) > 1 else 0
        points = zero_points[index] if len(zero_points) > 1 else zero_points[0]
        with np.errstate(all="ignore"):  # damaged scales are numbers, too
            numbers = (integers(first, stop).astype(np.float64) - points) * scales[index]
            result: Array = numbers.astype(np.float32)
        return result

    return flat


def _kind(dtype: str, found: Quantization | None) -> str:
    if found is None:
        return dtype
    if len(found.scales) > 1:
        return f"{dtype}, {len(found.scales)} scales along axis {found.axis}"
    return f"{dtype}, scale {found.scales[0]:.6g}, zero point {found.zero_points[0]}"


def _type_name(number: int) -> str:
    return TYPES[number][0] if number in TYPES else f"type {number}"
