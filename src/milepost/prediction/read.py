"""Inputs of a program out of files: arrays, tables, images."""

from __future__ import annotations

import csv
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from milepost.dtypes import Array
from milepost.errors import (
    MissingPackageError,
    PathNotFoundError,
    StorageError,
    UnknownFormatError,
    UsageError,
)
from milepost.prediction import images
from milepost.prediction.fit import fitted

# What NumPy raises for files that are not as they should be, or claim to be huge.
_UNREADABLE = (ValueError, EOFError, OSError, MemoryError, zipfile.BadZipFile, zlib.error)

# The arrays that a program takes: `name`, `dtype`, `shape`.
Signature = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a program is to predict on.

    Attributes:
        arrays: in the order of the signature.
        names: what each row is called, if anything: the names of images.
    """

    arrays: list[Array]
    names: list[str]


def read_inputs(
    path: str, signature: Signature, *, resize: bool = False, scale: float = 1.0
) -> Inputs:
    """The inputs in a .npy, .npz, .csv or .parquet file, an image, or a folder of images.

    Arguments:
        signature: what the program takes.
        resize: give images the size that it takes; else another size is refused.
        scale: multiply pixels, which are 0 to 255.

    Raises:
        PathNotFoundError: there is no such file.
        UnknownFormatError: it is of none of these formats, or not what its name says.
        UsageError: it does not fit the signature; the message has what was expected and found.
        MissingPackageError: a package is needed to read it.
    """
    if not os.path.exists(path):
        raise PathNotFoundError(f"{path} does not exist")
    extension = os.path.splitext(path)[1].lower()
    if os.path.isdir(path) or extension in images.EXTENSIONS:
        array, names = images.read(path, signature, resize=resize, scale=scale)
        return Inputs([_one(path, signature, array)], names)
    reader = _READERS.get(extension)
    if reader is None:
        known = ", ".join((*_READERS, *images.EXTENSIONS))
        raise UnknownFormatError(f"{path}: expected a folder of images, or one of {known}")
    try:
        return Inputs(reader(path, signature), [])
    except UsageError as error:
        raise type(error)(f"{path}: {error}") from None
    except PermissionError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error


def _one(path: str, signature: Signature, value: Any) -> Array:
    if len(signature) != 1:
        names = [entry["name"] for entry in signature]
        raise UsageError(f"{path} has one input, and the program takes {names}: use a .npz file")
    return fitted(value, signature[0])


def _npy(path: str, signature: Signature) -> list[Array]:
    opened = _numpy(path)
    return (
        _npz(path, signature)
        if not isinstance(opened, np.ndarray)
        else [_one(path, signature, opened)]
    )


def _npz(path: str, signature: Signature) -> list[Array]:
    opened = _numpy(path)
    if not isinstance(opened, np.lib.npyio.NpzFile):
        return [_one(path, signature, opened)]
    with opened as archive:
        found = list(archive.files)
        wanted = [entry["name"] for entry in signature]
        if len(found) == len(wanted) == 1:
            wanted = found
        if set(wanted) - set(found):
            raise UsageError(f"expected the arrays {wanted}, found {found}")
        try:
            arrays = [archive[name] for name in wanted]
        except _UNREADABLE as error:
            raise UnknownFormatError(f"an array cannot be read: {error}") from None
    return [fitted(array, entry) for array, entry in zip(arrays, signature, strict=True)]


def _numpy(path: str) -> Any:
    """An array, or an archive of them; never a pickle, which is code."""
    with open(path, "rb") as file:
        is_archive = file.read(2) == b"PK"
    if is_archive and not zipfile.is_zipfile(path):  # NumPy would leave it open
        raise UnknownFormatError("it is an archive of NumPy's that is cut short")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except PermissionError:
        raise
    except _UNREADABLE as error:
        raise UnknownFormatError(f"it is no array of NumPy's ({error})") from None


def _csv(path: str, signature: Signature) -> list[Array]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            first = file.readline()
            file.seek(0)
            # No number has these; a comma may be a decimal one, which is then told of.
            mark = next((mark for mark in ";\t" if mark in first), ",")
            rows = enumerate(csv.reader(file, delimiter=mark), 1)
            lines = [(line, cells) for line, cells in rows if cells]
        except (csv.Error, UnicodeDecodeError) as error:
            raise UnknownFormatError(f"it is no table of text: {error}") from None
    header = []
    if lines and not any(_is_number(cell) for cell in lines[0][1]):
        header = lines.pop(0)[1]
    if not lines:
        raise UsageError("it has no rows")
    width = len(header or lines[0][1])
    table = np.empty((len(lines), width))
    for row, (line, cells) in enumerate(lines):
        if len(cells) != width:
            raise UsageError(f"line {line} has {len(cells)} columns, the first has {width}")
        for column, cell in enumerate(cells):
            if not _is_number(cell):
                raise UsageError(
                    f"line {line}, column {column + 1}: expected a number, found {cell!r:.60}"
                )
            table[row, column] = float(cell)
    names = [entry["name"] for entry in signature]
    if set(names) <= set(header):
        table = table[:, [header.index(name) for name in names]]
    return _split(table, signature)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _split(table: Array, signature: Signature) -> list[Array]:
    """The columns of a table, in order, as inputs of several axes."""
    widths = [_width(entry) for entry in signature]
    rows, found = table.shape
    if widths.count(None) == 1 and len(widths) == 1:
        widths = [found]
    if sum(width or 0 for width in widths) != found or None in widths:
        shapes = ", ".join(f"{e['name']}: {e['dtype']}{list(e['shape'])}" for e in signature)
        raise UsageError(f"expected columns for {shapes}, found {found} columns")
    arrays, start = [], 0
    for entry, width in zip(signature, widths, strict=True):
        part = table[:, start : start + (width or 0)]
        rest = [width if n is None else n for n in entry["shape"][1:]]
        if math.prod(size or 0 for size in rest) != width:
            raise UsageError(f"{entry['name']}: {list(entry['shape'])} takes no columns of a table")
        arrays.append(fitted(part.reshape(rows, *rest), entry, text=True))
        start += width or 0
    return arrays


def _width(entry: Mapping[str, Any]) -> int | None:
    """The number of columns that an input takes; None if any."""
    sizes = entry["shape"][1:]
    return None if None in sizes else math.prod(sizes)


def _parquet(path: str, signature: Signature) -> list[Array]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError(
            f'Parquet needs pyarrow ({error}): pip install "milepost[predict]"'
        ) from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:  # and nothing of its folders' names
            table = file.read()
    except PermissionError:
        raise
    except (pyarrow.ArrowException, OSError) as error:
        raise UnknownFormatError(f"it is no Parquet file ({error})") from None
    if not table.num_rows:
        raise UsageError("it has no rows")
    wanted = [entry["name"] for entry in signature]
    if set(wanted) <= set(table.column_names):
        columns = [_column(table, name) for name in wanted]
    elif len(wanted) == table.num_columns == 1:
        columns = [_column(table, table.column_names[0])]
    else:
        return _split(
            np.stack([_column(table, name, flat=True) for name in table.column_names], 1),
            signature,
        )
    return [
        fitted(_shaped(column, entry), entry, text=True)
        for column, entry in zip(columns, signature, strict=True)
    ]


def _column(table: Any, name: str, *, flat: bool = False) -> Array:
    """A column of numbers, or of lists of numbers."""
    values = table[name]
    if values.null_count:
        raise UsageError(f"column {name!r} has {values.null_count} empty cells")
    array: Array = values.to_numpy()
    if array.dtype == object:
        try:
            array = np.array(values.to_pylist())
        except ValueError:
            raise UsageError(f"column {name!r} has lists of different lengths") from None
    if array.dtype.kind not in "biuf" or (flat and array.ndim != 1):
        raise UsageError(f"column {name!r}: expected numbers, found {values.type}")
    return array


def _shaped(column: Array, entry: Mapping[str, Any]) -> Array:
    """A column whose rows are flat lists, as rows of several axes."""
    width = _width(entry)
    if width is not None and column.size == len(column) * width:
        return column.reshape(len(column), *entry["shape"][1:])
    return column


_READERS: Mapping[str, Callable[[str, Signature], list[Array]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".csv": _csv,
    ".parquet": _parquet,
}
