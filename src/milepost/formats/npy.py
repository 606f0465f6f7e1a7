"""NumPy's `.npy`: one array, the leaf `array`; and what each array of that form is as a record.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. What NumPy cannot name
is read where it can be told: `np.save` writes bfloat16 as `<V2` and float8_e5m2 as `<f1`.
Other types of ml_dtypes are all `<V1`: they come as bytes, and say so in their kind.
"""

from __future__ import annotations

import numpy as np

from milepost import dtypes
from milepost.dtypes import Array
from milepost.encodings.npy import MAGIC, Header, read_header
from milepost.encodings.strided import c_strides, fortran_strides, read_strided
from milepost.errors import DamagedError, UnknownFormatError
from milepost.formats.arrays import stored_array, strided_array
from milepost.formats.place import Place
from milepost.record import Box, ForeignArray, PlainRecord, Record
from milepost.snapshot import Description, Snapshot, closing_on_error
from milepost.source import ByteSource

# A string alone is a plain value, which is in memory from the start.
_MAX_STRING = 1 << 20
# NumPy's letter and the size in bytes -> our name.
_NAMES = {
    "b1": "bool",
    "f1": "float8_e5m2",
    "f16": "x87_float128",
    "c32": "x87_complex256",
    **{f"i{size}": f"int{8 * size}" for size in (1, 2, 4, 8)},
    **{f"u{size}": f"uint{8 * size}" for size in (1, 2, 4, 8)},
    **{f"f{size}": f"float{8 * size}" for size in (2, 4, 8)},
    **{f"c{size}": f"complex{8 * size}" for size in (8, 16)},
}
_TIMES = {"M8": "datetime64", "m8": "timedelta64"}


def recognises(place: Place) -> bool:
    """The mark of a `.npy` file."""
    return place.start.startswith(MAGIC)


def open_place(place: Place) -> Snapshot:
    """The snapshot of a `.npy` file.

    Raises:
        DamagedError: it is not valid.
        UntrustedError, UnknownFormatError: it holds objects, or records of several fields.
        VersionError: it is newer.
    """
    source = place.open()
    with closing_on_error([source]):
        header = read_header(source)
        if header.end != source.size:
            raise DamagedError(
                f"{source.name}: the array ends at byte {header.end}, the file at {source.size}"
            )
        metadata = {"descr": header.descr, "fortran_order": header.fortran_order}
        records = {"array": array_record(source, header)}
        return Snapshot(source.name, records, [source], Description("npy", metadata))


def array_record(
    source: ByteSource, header: Header, file: int = 0, *, void_is_bfloat16: bool = False
) -> Record:
    """The record of an array in file number `file`, which is `source`.

    NumPy's own void of two bytes, `|V2`, is bfloat16 where the writer is known to have no other.

    Raises:
        UnknownFormatError: no dtype of ours is like its.
    """
    if header.kind in "SU":
        return _strings(source, header)
    name = _dtype_name(source, header, void_is_bfloat16)
    if name is None:
        return _raw_bytes(source, header)
    in_c_order = not header.fortran_order or sum(size != 1 for size in header.shape) < 2
    if in_c_order and not header.big_endian:
        return stored_array(name, header.shape, header.start, file)
    dtype = dtypes.numpy_dtype(name).newbyteorder(">" if header.big_endian else "<")
    return strided_array(source, header.start, dtype, header.shape, _strides(header))


def _dtype_name(source: ByteSource, header: Header, void_is_bfloat16: bool) -> str | None:
    """Our name of its type; None where it is only known how many bytes an element has."""
    code = f"{header.kind}{header.itemsize}"
    if header.kind == "V":
        known = header.itemsize == 2 and (void_is_bfloat16 or header.descr[0] in "<>")
        return "bfloat16" if known else None
    name = _NAMES.get(code)
    if code in _TIMES:
        name = _TIMES[code] + header.unit
    try:
        if name is None:
            raise KeyError(code)
        dtypes.numpy_dtype(name)
    except (KeyError, TypeError, ValueError):  # NumPy's word for a unit that is none
        raise UnknownFormatError(
            f"{source.name}: an array of the type {header.descr!r}, which is unknown here or on "
            "this kind of machine: save it as one of the common numbers"
        ) from None
    return name


def _strides(header: Header) -> tuple[int, ...]:
    strides = fortran_strides if header.fortran_order else c_strides
    return strides(header.shape, header.itemsize)


def _raw_bytes(source: ByteSource, header: Header) -> ForeignArray:
    """Elements of a type without a name: their bytes, along one axis more if they have several."""
    shape, strides = header.shape, _strides(header)
    if header.itemsize > 1:
        shape, strides = (*shape, header.itemsize), (*strides, 1)
    return strided_array(
        source, header.start, np.dtype(np.uint8), shape, strides, kind=header.descr
    )


def _strings(source: ByteSource, header: Header) -> Record:
    """Byte strings as they are, and texts in UTF-8; both without the zeros that pad them."""
    count = header.itemsize if header.kind == "S" else header.itemsize // 4
    dtype = np.dtype(f"{'>' if header.big_endian else '<'}{header.kind}{count}")
    strides = _strides(header)

    def read(box: Box) -> Array:
        found = read_strided(source, header.start, dtype, strides, box)
        result = np.empty(found.shape, object)
        result[...] = _encoded(found, source) if header.kind == "U" else found.astype(object)
        return result

    if header.shape:
        return ForeignArray(
            dtypes.STRING, header.shape, (), read, header.descr, header.end - header.start
        )
    if header.itemsize > _MAX_STRING:
        raise UnknownFormatError(f"{source.name}: a string of {header.itemsize:,} bytes, too long")
    return PlainRecord(bytes(read(())[()]))


def _encoded(texts: Array, source: ByteSource) -> Array:
    points = texts.reshape(-1).view(np.uint32) if texts.size else np.empty(0, np.uint32)
    surrogate = (points >= 0xD800) & (points < 0xE000)
    if bool(np.any(surrogate | (points > 0x10FFFF))):
        raise DamagedError(f"{source.name}: a text that is not Unicode")
    flat = np.array([text.encode() for text in texts.reshape(-1).tolist()] or [b""], object)
    return flat[: texts.size].reshape(texts.shape)


__all__ = ["array_record", "open_place", "recognises"]
