"""HDF5 files: Keras models and weights, and anybody else's arrays.

A leaf is a dataset, under its path in the file. A dataset of compounds is a leaf for each
member; an attribute is metadata, by the path of what it belongs to.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from milepost import dtypes
from milepost.dtypes import Array
from milepost.encodings import hdf5
from milepost.encodings.hdf5 import Contents, Dataset
from milepost.encodings.hdf5.datatypes import Datatype
from milepost.errors import DamagedError
from milepost.formats import keras_config
from milepost.formats.arrays import stored_array
from milepost.formats.keras_config import KerasSnapshot
from milepost.formats.place import Place
from milepost.record import ArrayRecord, Box, ForeignArray, PlainRecord, Record
from milepost.snapshot import Description, Snapshot, closing_on_error
from milepost.source import ByteSource

# A string on its own is a plain value, which is read at once.
_LONGEST_PLAIN = 1 << 20
_LONGEST_SHOWN = 1 << 14  # of an attribute, in characters


def recognises(place: Place) -> bool:
    """HDF5's mark, at the start or behind a block of the user's."""
    if place.is_folder or place.size < len(hdf5.MARK):
        return False
    if place.start.startswith(hdf5.MARK):
        return True
    source = place.open()
    try:
        return hdf5.find_base(source) is not None
    finally:
        source.close()


def open_place(place: Place) -> Snapshot:
    """The snapshot in an HDF5 file.

    Raises:
        DamagedError: it is not valid, or cut short.
        UntrustedError: it leads to other files, or asks for far more memory than it has bytes.
        UnknownFormatError: it uses something that is not read here; the message names it.
    """
    source = place.open()
    with closing_on_error([source]):
        return open_source(source)


def open_source(source: ByteSource) -> Snapshot:
    """As `open_place`."""
    contents = hdf5.read_contents(source)
    found = records(contents)
    metadata = shown_attributes(contents)
    kind = keras_config.kind_of(found, contents.attributes)
    if kind is None:
        return Snapshot(source.name, found, [source], Description("HDF5", metadata))
    return KerasSnapshot(
        source.name,
        found,
        [source],
        Description(kind, metadata),
        structure=keras_config.legacy_structure(source.name, contents.attributes),
        attributes=contents.attributes,
    )


def records(contents: Contents, file: int = 0) -> dict[str, Record]:
    """A record for each dataset, and for each member of a compound one."""
    found: dict[str, Record] = {}
    for path, dataset in contents.datasets.items():
        for name, record in _records(path, dataset, contents, file):
            if name in found:
                raise DamagedError(f"two datasets would be called {name!r:.80}")
            found[name] = record
    return found


def _records(
    path: str, dataset: Dataset, contents: Contents, file: int
) -> list[tuple[str, Record]]:
    if not dataset.datatype.members or dataset.shape is None:
        named = contents.attributes.get(path, {}).get("dtype")
        return [(path, _record(_as_named(dataset, named), file))]
    return [
        (f"{path}/{name}", _foreign(dataset, datatype, dataset.shape, (start, datatype)))
        for name, start, datatype in dataset.datatype.members
        if _checked_member(dataset, name, datatype)
    ]


def _checked_member(dataset: Dataset, name: str, datatype: Datatype) -> bool:
    if datatype.members:
        raise dataset.image.unknown("compounds inside of compounds")
    if not name.isprintable() or not name or "/" in name:
        raise dataset.image.damaged(f"a member is called {name!r:.80}")
    return True


def _as_named(dataset: Dataset, named: object) -> Dataset:
    """Keras writes bfloat16 as bytes without a type, and its name as an attribute."""
    datatype = dataset.datatype
    if named != "bfloat16" or (datatype.dtype, datatype.shape) != ("uint8", (2,)):
        return dataset
    return replace(dataset, datatype=Datatype(2, "bfloat16"))


def _record(dataset: Dataset, file: int) -> Record:
    datatype, shape = dataset.datatype, dataset.shape
    if shape is None:
        return PlainRecord(None)
    whole = shape + datatype.shape
    if datatype.dtype == dtypes.STRING and not whole and datatype.size <= _LONGEST_PLAIN:
        return PlainRecord(bytes(dataset.read(()).item()))
    if datatype.is_plain and dataset.position is not None:
        return stored_array(datatype.dtype, whole, dataset.position, file)
    return _foreign(dataset, datatype, shape)


def _foreign(
    dataset: Dataset,
    datatype: Datatype,
    shape: tuple[int, ...],
    member: tuple[int, Datatype] | None = None,
) -> ArrayRecord:
    """An array that is in chunks, not little-endian, of strings, or only a part of elements."""
    rank = len(shape)

    def read(box: Box) -> Array:
        found = dataset.read(box[:rank], member)
        inner: Any = tuple(slice(start, stop) for start, stop in box[rank:])
        return found if not inner else found[(slice(None),) * rank + inner].copy()

    stored = math.prod(shape) * datatype.size
    return ForeignArray(datatype.dtype, shape + datatype.shape, (), read, "", stored)


def shown_attributes(contents: Contents) -> dict[str, Any]:
    """The attributes of everything by its path, those that are long left out."""
    return {
        path or "/": {name: _shown(value) for name, value in attributes.items()}
        for path, attributes in contents.attributes.items()
    }


def _shown(value: Any) -> Any:
    length = len(value) if isinstance(value, str | bytes) else len(repr(value))
    if length > _LONGEST_SHOWN:
        return f"({length:,} characters)"
    return _json(value)


def _json(value: Any) -> Any:
    if isinstance(value, list):
        return [_json(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return [value.real, value.imag] if isinstance(value, complex) else value
