"""PyTorch's exported programs, `torch.export.save`: their weights and constants.

A zip archive in one folder, of whose members these are read (names from
https://github.com/pytorch/pytorch/blob/main/torch/csrc/export/pt2_archive_constants.h):

    archive_format, archive_version, byteorder       `pt2`, `0`, `little`
    models/NAME.json                                 the program, which is not read
    data/weights/NAME_weights_config.json            name -> member, dtype, sizes, strides, offset
    data/weights/weight_0                            the bytes of a tensor's storage
    data/constants/NAME_constants_config.json        the same, for constants
    data/constants/tensor_0

A leaf has the name that `state_dict` and `constants` have for it; NAME/ before that, where the
archive has several programs. What is pickled (custom objects, subclasses of tensors) is left
alone, and listed in the metadata.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from milepost import dtypes
from milepost.encodings.strided import c_strides
from milepost.encodings.zip import Archive, read_archive
from milepost.errors import DamagedError, UnknownFormatError, VersionError
from milepost.formats.archive import ArchiveSnapshot, first_member
from milepost.formats.arrays import stored_array, strided_array
from milepost.formats.names import leaf_name
from milepost.formats.place import Place
from milepost.limits import is_shape, is_size, is_sizes, shown
from milepost.record import Record
from milepost.snapshot import Description, Snapshot, closing_on_error

_FIRST = re.compile(rb"[^/]+/(data/(weights|constants|aotinductor)/|models/|archive_format)")
_VERSION = 0
_MAX_CONFIG = 8 << 20
# Strides of zero make much of little; of more than this nothing is made that is not stored.
_MAX_EXPANDED = 16 << 20
_STRIDED = 7
# https://github.com/pytorch/pytorch/blob/main/torch/_export/serde/schema.py (ScalarType)
_DTYPES = {
    **{1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64"},
    **{6: "float16", 7: "float32", 8: "float64", 10: "complex64", 11: "complex128"},
    **{12: "bool", 13: "bfloat16", 28: "uint16", 34: "uint32", 35: "uint64"},
    **{29: "float8_e4m3fn", 30: "float8_e5m2", 31: "float8_e4m3fnuz"},
    **{32: "float8_e5m2fnuz", 33: "float8_e8m0fnu"},
}


@dataclass(slots=True)
class _Found:
    archive: Archive
    order: str  # of bytes, as NumPy writes it
    records: dict[str, Record] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)
    pickled: list[str] = field(default_factory=list)


def recognises(place: Place) -> bool:
    """A zip archive that begins with a part of an exported program."""
    return _FIRST.match(first_member(place)) is not None


def open_place(place: Place) -> Snapshot:
    """The snapshot of the weights and constants in an exported program.

    Raises:
        DamagedError, UntrustedError: it is not valid, or readers would differ on what is in it.
        UnknownFormatError: it has no exported program, or a tensor of a kind that NumPy has not.
        VersionError: it is newer.
    """
    file = place.open()
    with closing_on_error([file]):
        archive = read_archive(file)
        root = next(iter(archive.members), "").partition("/")[0] + "/"
        found = _Found(archive, _check_archive(archive, root))
        programs = [
            name.removeprefix(f"{root}models/").removesuffix(".json")
            for name in archive.members
            if name.startswith(f"{root}models/") and name.endswith(".json")
        ]
        if not programs:
            raise UnknownFormatError(
                f"{file.name} has no exported program: the weights of a compiled one are in its "
                "machine code"
            )
        for program in programs:
            prefix = f"{program}/" if len(programs) > 1 else ""
            for kind in ("weights", "constants"):
                _add(found, f"{root}data/{kind}/", f"{program}_{kind}", prefix)
        metadata = {"programs": programs[:100], "pickled": found.pickled[:1000]}
        description = Description("torch exported program", metadata)
        return ArchiveSnapshot(archive, found.members, found.records, [file], description)


def _check_archive(archive: Archive, root: str) -> str:
    """The byte order of an archive of the kind and version that is read."""
    if archive.read(f"{root}archive_format", 16) != b"pt2":
        raise DamagedError(f"{archive.file.name}: its archive_format is not pt2")
    version = archive.read(f"{root}archive_version", 16)
    if not version.isdigit() or int(version) > _VERSION:
        raise VersionError(
            f"{archive.file.name}: archive version {version!r}; {_VERSION} is the newest known"
        )
    name = f"{root}byteorder"
    order = archive.read(name, 16) if name in archive.members else b"little"
    if order not in (b"little", b"big"):
        raise DamagedError(f"{archive.file.name}: the byte order {order!r}")
    return "<" if order == b"little" else ">"


def _add(found: _Found, folder: str, config: str, prefix: str) -> None:
    """Add what a `..._config.json` says."""
    archive = found.archive
    label = f"{archive.file.name}:{folder}{config}_config.json"
    text = archive.read(f"{folder}{config}_config.json", _MAX_CONFIG)
    try:
        entries = json.loads(text)["config"].items()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{label} is not valid: {type(error).__name__}: {error}") from None
    for key, entry in entries:
        name = leaf_name((prefix + key).encode(errors="surrogatepass"), label)
        if name in found.records:
            raise DamagedError(f"{label}: {name!r} is there twice")
        try:
            pickled, member = entry["use_pickle"], folder + entry["path_name"]
            tensor = None if pickled else _checked(entry["tensor_meta"])
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedError(f"{label}: {name!r} is not a tensor: {error!r}") from None
        if tensor is None:
            found.pickled.append(name)
            continue
        found.records[name] = _record(archive, member, tensor, found.order, name)
        found.members[name] = member


@dataclass(frozen=True, slots=True)
class _Tensor:
    dtype: object
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    offset: int  # in elements


def _checked(meta: dict[str, Any]) -> _Tensor:
    shape = [size["as_int"] for size in meta["sizes"]]
    strides = [stride["as_int"] for stride in meta["strides"]]
    offset = meta["storage_offset"]["as_int"]
    if not is_shape(shape) or not is_sizes(strides) or not is_size(offset):
        raise ValueError("its sizes, strides or offset are no sizes")
    if len(shape) != len(strides) or meta["layout"] != _STRIDED:
        raise ValueError("it is not strided")
    return _Tensor(meta["dtype"], tuple(shape), tuple(strides), offset)


def _record(archive: Archive, member: str, tensor: _Tensor, order: str, name: str) -> Record:
    where = f"{archive.file.name}:{member}, leaf {name!r}"
    dtype = _DTYPES.get(tensor.dtype) if isinstance(tensor.dtype, int) else None
    if dtype is None:
        raise UnknownFormatError(f"{where}: the dtype number {shown(tensor.dtype)} is unknown here")
    source = archive.source(member)
    itemsize = dtypes.numpy_dtype(dtype).itemsize
    strides = tuple(stride * itemsize for stride in tensor.strides)
    start = tensor.offset * itemsize
    if math.prod(tensor.shape) == 0:
        return stored_array(dtype, tensor.shape, 0)
    steps = zip(tensor.shape, strides, strict=True)
    end = start + sum((n - 1) * stride for n, stride in steps) + itemsize
    nbytes = math.prod(tensor.shape) * itemsize
    if end > source.size or nbytes > max(source.size, _MAX_EXPANDED):
        raise DamagedError(
            f"{where}: {dtype}{list(tensor.shape)} with the strides {list(tensor.strides)} would "
            f"end at byte {end} of {source.size}, or is made of much less than it has"
        )
    # The stride of an axis of one element says nothing.
    expected = c_strides(tensor.shape, itemsize)
    in_order = all(
        n == 1 or a == b for n, a, b in zip(tensor.shape, strides, expected, strict=True)
    )
    if in_order and order == "<" and archive.members[member].stored:
        return stored_array(dtype, tensor.shape, archive.members[member].offset + start)
    stored = dtypes.numpy_dtype(dtype).newbyteorder("<" if order == "<" else ">")
    return strided_array(source, start, stored, tensor.shape, strides)
