"""NumPy's archives, `.npz`: not compressed, one `.npy` member an array; `numpy.load` reads it.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from milepost import dtypes
from milepost.chunk import Shape
from milepost.conversion.content import Content
from milepost.conversion.writers import Options, Written
from milepost.conversion.writers.appending import new_file
from milepost.conversion.writers.zipped import OVERHEAD, ZipWriter, check_name
from milepost.digest import Buffer
from milepost.state import Plain

NAME = "an .npz file"
KEEPS_METADATA = False
_ALIGNMENT = 64


def holds(dtype: str) -> bool:
    """NumPy's own dtypes. Of bfloat16 and its like it would keep only the bytes."""
    if dtype == dtypes.STRING or dtype.startswith("x87"):
        return False
    return dtypes.numpy_dtype(dtype).isbuiltin == 1 or dtype.startswith(("datetime", "timedelta"))


def keeps(name: str, value: Plain) -> bool:
    """What comes back as it was from an array without axes."""
    array = np.asarray(value)
    found = array.item() if not array.dtype.hasobject else None
    return value is not None and (type(found), repr(found)) == (type(value), repr(value))


def write(path: str, content: Content, options: Options) -> Written:
    members: dict[str, tuple[Iterable[Buffer], int]] = {}
    for name, tensor in content.tensors.items():
        header = _header(dtypes.numpy_dtype(tensor.dtype), tensor.shape)
        members[name] = itertools.chain([header], tensor.data()), len(header) + tensor.nbytes
    for name, value in content.values.items():
        array = dtypes.to_stored(np.asarray(value))
        data = _header(array.dtype, ()) + array.tobytes()
        members[name] = [data], len(data)
    for name in members:
        check_name(name)
    with new_file(path, sum(nbytes + OVERHEAD for _, nbytes in members.values())) as out:
        archive = ZipWriter(out)
        for name, (parts, nbytes) in members.items():
            archive.add(f"{name}.npy", parts, nbytes, _ALIGNMENT)
        archive.finish()
    return Written((path,))


def _header(dtype: np.dtype[Any], shape: Shape) -> bytes:
    descr = np.lib.format.dtype_to_descr(dtype.newbyteorder("<"))
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()
