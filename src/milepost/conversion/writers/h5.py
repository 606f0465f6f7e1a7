"""Keras's `.weights.h5` files, and HDF5 in general: groups and datasets named as the leaves.

`load_weights` reads the file if the names are Keras's own paths, such as those of a `.keras`
file. HDF5's library wants to read what it writes, so the file grows without a name first.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from milepost import dtypes
from milepost.conversion.content import Content, Tensor
from milepost.conversion.writers import Options, Written
from milepost.digest import Buffer
from milepost.encodings.hdf5 import DEEPEST
from milepost.errors import MissingPackageError, StorageError, UsageError
from milepost.state import Plain
from milepost.storage.filesystem import OperatingSystem
from milepost.storage.local import check_space, replace_file, translated

NAME = "an HDF5 file"
KEEPS_METADATA = False
_BLOCK = 16 << 20
_BFLOAT16 = "bfloat16"  # Keras's own way: two raw bytes, and an attribute that says what they are


def holds(dtype: str) -> bool:
    if dtype in (dtypes.STRING, _BFLOAT16):
        return True
    return dtypes.numpy_dtype(dtype).isbuiltin == 1 and not dtype.startswith(("datetime", "time"))


def keeps(name: str, value: Plain) -> bool:
    """Numbers and texts as datasets without axes; HDF5 ends a text at its first NUL."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**64
    if isinstance(value, str | bytes):
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        return b"\0" not in data
    return isinstance(value, float)


def write(path: str, content: Content, options: Options) -> Written:
    folder = os.path.dirname(path)
    _check_names(content.names)
    check_space(OperatingSystem(), folder, path, 2 * content.nbytes)
    with translated(path, "write"), tempfile.TemporaryFile(dir=folder) as file:
        try:
            _write_all(file, content)
        except RuntimeError as error:  # as HDF5 calls it where closing fails
            raise StorageError(f"cannot write {path}: {error}") from None
        length = file.seek(0, os.SEEK_END)
        replace_file(path, _blocks(file, length), length)
    return Written((path,))


def _check_names(names: list[str]) -> None:
    """Raises UsageError for one that is no path, or too deep, or that another is a folder of."""
    taken = set(names)
    for name in names:
        parts = name.split("/")
        if {"", ".", ".."} & set(parts) or "\0" in name:
            raise UsageError(f"leaf {name!r} cannot be a path in an HDF5 file: rename it")
        if len(parts) > DEEPEST:
            raise UsageError(
                f"leaf {name[:80]!r}... would lie in more than {DEEPEST} groups: rename it"
            )
        for end in range(1, len(parts)):
            above = "/".join(parts[:end])
            if above in taken:
                raise UsageError(
                    f"leaf {above!r} would be the folder of {name!r} in an HDF5 file: rename one"
                )


def _write_all(file: IO[bytes], content: Content) -> None:
    try:
        import h5py
    except ImportError:
        raise MissingPackageError(
            "writing HDF5 needs h5py: pip install 'milepost[formats]'"
        ) from None
    with h5py.File(file, "w", libver=("earliest", "v110")) as root:
        for name, tensor in content.tensors.items():
            _write_tensor(h5py, root, name, tensor)
        for name, value in content.values.items():
            root[name] = np.bool_(value) if isinstance(value, bool) else value


def _write_tensor(h5py: Any, root: Any, name: str, tensor: Tensor) -> None:
    if tensor.dtype == dtypes.STRING:
        root.create_dataset(name, tensor.shape, h5py.string_dtype("ascii"), tensor.whole())
        return
    raw = tensor.dtype == _BFLOAT16
    dtype = np.dtype("V2") if raw else dtypes.numpy_dtype(tensor.dtype)
    dataset = root.create_dataset(name, tensor.shape, dtype)
    if raw:
        dataset.attrs["dtype"] = _BFLOAT16
    for box, part in tensor.parts():
        where = tuple(slice(start, stop) for start, stop in box)
        dataset[where] = part.view(dtype) if raw else part


def _blocks(file: IO[bytes], length: int) -> Iterator[Buffer]:
    file.seek(0)
    for _ in range(0, length, _BLOCK):
        yield file.read(_BLOCK)
