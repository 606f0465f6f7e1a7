"""PyTorch files: an archive that `torch.load(weights_only=True)` reads as a state dict.

    archive/data.pkl             an OrderedDict: name -> tensor or plain value
    archive/data/0 ...           the raw bytes of the storages, each at a multiple of 64
    archive/version, byteorder, .format_version, .storage_alignment

https://docs.pytorch.org/docs/stable/notes/serialization.html. Arrays that are one array in
the source share a storage.
"""

from __future__ import annotations

from milepost.conversion.content import Content, Tensor
from milepost.conversion.writers import Options, Written, pickled
from milepost.conversion.writers.appending import new_file
from milepost.conversion.writers.zipped import OVERHEAD, ZipWriter
from milepost.state import Plain

NAME = "a PyTorch file"
KEEPS_METADATA = False
_ALIGNMENT = 64
_TOP = "archive"
_SMALL = {".format_version": "1", ".storage_alignment": str(_ALIGNMENT), "byteorder": "little"}


def holds(dtype: str) -> bool:
    return dtype in pickled.DTYPES


def keeps(name: str, value: Plain) -> bool:
    """Everything; of integers those that `torch.load` reads, which has no large ones."""
    return type(value) is not int or value.bit_length() < 2000


def write(path: str, content: Content, options: Options) -> Written:
    storages, items = _layout(content)
    index = pickled.state_dict(items.items())
    nbytes = sum(tensor.nbytes + OVERHEAD for tensor in storages.values())
    with new_file(path, nbytes + len(index)) as out:
        archive = ZipWriter(out)
        archive.add(f"{_TOP}/data.pkl", [index], len(index), _ALIGNMENT)
        for name, text in _SMALL.items():
            archive.add(f"{_TOP}/{name}", [text.encode()], len(text), _ALIGNMENT)
        for key, tensor in storages.items():
            archive.add(f"{_TOP}/data/{key}", tensor.data(), tensor.nbytes, _ALIGNMENT)
        archive.add(f"{_TOP}/version", [b"3\n"], 2, _ALIGNMENT)
        archive.finish()
    return Written((path,))


def _layout(content: Content) -> tuple[dict[str, Tensor], dict[str, bytes]]:
    """The storages by key, and the pickled items by name."""
    storages: dict[str, Tensor] = {}
    keys: dict[object, str] = {}
    items: dict[str, bytes] = {}
    for name, tensor in content.tensors.items():
        place = name if tensor.place is None else tensor.place
        key = keys.setdefault(place, str(len(storages)))
        storages.setdefault(key, tensor)
        items[name] = pickled.tensor(tensor.dtype, tensor.shape, key)
    items |= {name: pickled.value(value) for name, value in content.values.items()}
    return storages, items
