"""What a program predicted, as arrays, as a table, and in files."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from milepost.dtypes import Array
from milepost.errors import MissingPackageError, UsageError
from milepost.prediction.loaded import row_axis
from milepost.storage.local import replace_file


class Predictions:
    """The outputs for all rows, and the classes that they stand for.

    Arguments:
        signature: the `name` and `shape` of each output.
        arrays: the outputs.
        labels: the names of the classes, or none.
        names: what each row is called, or none.
    """

    def __init__(
        self,
        signature: Sequence[Mapping[str, Any]],
        arrays: Sequence[Array],
        labels: Sequence[str] = (),
        names: Sequence[str] = (),
    ) -> None:
        self.arrays = {e["name"]: a for e, a in zip(signature, arrays, strict=True)}
        self._by_row = {
            e["name"]: np.moveaxis(a, row_axis(e), 0) if a.ndim else a
            for e, a in zip(signature, arrays, strict=True)
        }
        self._labels, self._names = _writable(labels), _writable(names)
        counts = {len(array) if array.ndim else None for array in self._by_row.values()}
        self._count = counts.pop() if len(counts) == 1 else None

    def __len__(self) -> int:
        """The number of rows.

        Raises:
            UsageError: the outputs have no rows, or not the same number.
        """
        if self._count is None:
            shapes = {name: list(array.shape) for name, array in self.arrays.items()}
            raise UsageError(f"the outputs are no rows of a table: {shapes}: write them as .npz")
        return self._count

    def classes(self) -> dict[str, list[Any]]:
        """For each row the label of the largest number, and that number; nothing without labels.

        A row in which a number is NaN has no label. Nor has one number for two classes, because
        nothing tells at which value the second begins.
        """
        for array in self._by_row.values():
            if self._labels and array.ndim == 2 and array.shape[1] == len(self._labels):
                wide = array.astype(float)
                found = ~np.isnan(wide).any(axis=1)
                kind = "probability" if _are_probabilities(wide[found]) else "score"
                pairs = zip(wide.argmax(axis=1), found, strict=True)
                labels = [self._labels[place] if known else "" for place, known in pairs]
                return {"label": labels, kind: wide.max(axis=1).tolist()}
        return {}

    def columns(self) -> dict[str, list[Any]]:
        """A table: the rows' names, their classes, and every number of the outputs."""
        count = len(self)
        columns: dict[str, list[Any]] = {"file": list(self._names)} if self._names else {}
        columns |= self.classes()
        for name, array in self._by_row.items():
            flat = array.reshape(count, -1)
            values = _numbers(flat.T)
            for index, column in enumerate(values.tolist()):
                columns[_unused(self._title(name, array, index), columns)] = column
        return columns

    def rows(self) -> list[dict[str, Any]]:
        """The rows as JSON, each output nested as its array is."""
        parts: dict[str, list[Any]] = {"file": list(self._names)} if self._names else {}
        parts |= self.classes()
        for name, array in self._by_row.items():
            parts[_unused(name, parts)] = _numbers(array).tolist()
        count = len(self)
        return [{name: _json_values(parts[name][row]) for name in parts} for row in range(count)]

    def _title(self, name: str, array: Array, index: int) -> str:
        if array.ndim == 1:
            return name
        if array.ndim == 2 and array.shape[1] == len(self._labels) and len(self._by_row) == 1:
            return self._labels[index]
        places = np.unravel_index(index, array.shape[1:])
        return "_".join((name, *map(str, places)))


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name += "_"
    return name


def _numbers(array: Array) -> Array:
    """Low-precision floats as float32: JSON, CSV and Parquet know no others."""
    if array.dtype.kind == "c":
        raise UsageError(f"{array.dtype} goes to .npy or .npz only: tables have real numbers")
    return array if array.dtype.kind in "biuf" else array.astype(np.float32)


def _storable(array: Array) -> Array:
    return array if array.dtype.kind == "c" else _numbers(array)


def _writable(texts: Sequence[str]) -> list[str]:
    """Texts in which what UTF-8 does not have, as in odd names of files, is escaped."""
    return [text.encode("utf-8", "backslashreplace").decode() for text in texts]


def _json_values(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, list):
        return [_json_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _are_probabilities(wide: Array) -> bool:
    return bool((wide >= 0).all() and np.allclose(wide.sum(axis=1), 1, atol=1e-2))


def check_out(path: str) -> None:
    """Make sure that predictions can be written to a file of this name.

    Raises:
        UsageError: its extension is none that is known.
        MissingPackageError: a package is needed for it.
    """
    extension = os.path.splitext(path)[1].lower()
    if extension not in _WRITERS:
        raise UsageError(f"{path}: expected a name that ends in one of {', '.join(_WRITERS)}")
    if extension == ".parquet":
        _pyarrow()


def write_predictions(predictions: Predictions, path: str) -> None:
    """Write predictions in the format that the path's extension names.

    A file that was there gives way once the new one is whole.

    Raises:
        UsageError: the format cannot hold them, or is not known.
        MissingPackageError: a package is needed for it.
        StorageError, PathNotFoundError: the file cannot be written.
    """
    check_out(path)
    data = _WRITERS[os.path.splitext(path)[1].lower()](predictions)
    replace_file(path, [data], len(data))


def _npy(predictions: Predictions) -> bytes:
    if len(predictions.arrays) != 1:
        raise UsageError(
            f"a .npy file holds one array, and there are {list(predictions.arrays)}: use .npz"
        )
    buffer = io.BytesIO()
    [array] = predictions.arrays.values()
    np.save(buffer, _storable(array), allow_pickle=False)
    return buffer.getvalue()


def _npz(predictions: Predictions) -> bytes:
    arrays = {name: _storable(array) for name, array in predictions.arrays.items()}
    for name, values in predictions.classes().items():
        arrays[_unused(name, arrays)] = np.array(values)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # np.savez has names that no array may have
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
    return buffer.getvalue()


def _csv(predictions: Predictions) -> bytes:
    columns = predictions.columns()
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return buffer.getvalue().encode()


def _json(predictions: Predictions) -> bytes:
    return json.dumps(predictions.rows(), indent=1, ensure_ascii=False).encode() + b"\n"


def _parquet(predictions: Predictions) -> bytes:
    pyarrow = _pyarrow()
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(predictions.columns()), buffer)
    return buffer.getvalue()


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError(
            f'Parquet needs pyarrow ({error}): pip install "milepost[predict]"'
        ) from error
    return pyarrow


_WRITERS: Mapping[str, Callable[[Predictions], bytes]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".csv": _csv,
    ".parquet": _parquet,
    ".json": _json,
}
