"""What `torch.save` wrote before PyTorch 1.6: five pickles, then the storages one after another.

https://github.com/pytorch/pytorch/blob/main/torch/serialization.py (_legacy_save)

    magic number, protocol version, system information, the value, the keys of the storages;
    then of each storage, in the order of its key there, the number of elements and the bytes

The tar archives of before 2017 are not read.
"""

from __future__ import annotations

import sys
from typing import Any

from milepost.encodings.pickle import described, read_pickle
from milepost.errors import DamagedError, VersionError
from milepost.formats.place import Place as FilePlace
from milepost.formats.torch_calls import Builder
from milepost.formats.torch_records import Place, Records
from milepost.formats.torch_tree import Tree
from milepost.formats.torch_values import Storage, itemsize
from milepost.snapshot import Description, Snapshot, closing_on_error
from milepost.source import ByteSource, read_exactly

_MAGIC = 0x1950_A86A_20F9_469C_FC6C
_MAGIC_BYTES = _MAGIC.to_bytes(10, "little")
_PROTOCOL = 1001


def recognises(place: FilePlace) -> bool:
    """A pickle that is the magic number."""
    head = place.start[:32]
    return head.startswith(b"\x80") and b"\x8a\x0a" + _MAGIC_BYTES in head


def open_place(place: FilePlace) -> Snapshot:
    """The snapshot of a PyTorch file of the older layout.

    Raises:
        DamagedError: it is not valid.
        UntrustedError: it calls what is no part of a model.
        VersionError: it is of a protocol that is unknown here.
    """
    file = place.open()
    with closing_on_error([file]):
        builder = Builder(file.name)
        system, position = _read_head(file, builder)
        value, position = read_pickle(file, position, builder)
        keys, position = read_pickle(file, position, builder)
        tree = Tree(file.name)
        tree.add(value)
        places = _places(file, builder, keys, position)

        def find(storage: Storage) -> Place:
            if storage.key not in places:
                raise DamagedError(f"{file.name} lacks the storage {storage.key!r:.80}")
            return places[storage.key]

        order = "<" if system.get("little_endian", sys.byteorder == "little") else ">"
        records = Records(file.name, find, order).of(tree)
        metadata = {"producer": "PyTorch legacy", "version": str(_PROTOCOL), **tree.facts()}
        return Snapshot(file.name, records, [file], Description("torch", metadata))


def _read_head(file: ByteSource, builder: Builder) -> tuple[dict[Any, Any], int]:
    magic, position = read_pickle(file, 0, builder)
    protocol, position = read_pickle(file, position, builder)
    system, position = read_pickle(file, position, builder)
    if magic != _MAGIC or not isinstance(system, dict):
        raise DamagedError(f"{file.name} does not begin as a PyTorch file does")
    if protocol != _PROTOCOL:
        raise VersionError(
            f"{file.name} is of protocol {described(protocol)}, expected {_PROTOCOL}: save it with "
            "a current PyTorch"
        )
    return system, position


def _places(file: ByteSource, builder: Builder, keys: Any, position: int) -> dict[str, Place]:
    """Where each storage lies, which its predecessors tell."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise DamagedError(f"{file.name} has no list of its storages")
    places: dict[str, Place] = {}
    for key in keys:
        storage = builder.storages.get(key)
        if storage is None or key in places:
            raise DamagedError(f"{file.name} has a storage {described(key)} twice, or for nothing")
        count = int.from_bytes(read_exactly(file, position, 8), "little")
        if count != storage.numel:
            raise DamagedError(
                f"{file.name}: storage {key!r:.80} has {count} elements, expected {storage.numel}"
            )
        position += 8
        nbytes = count * itemsize(storage.dtype)
        if position + nbytes > file.size:
            raise DamagedError(
                f"{file.name} is cut short: storage {key!r:.80} would end at byte "
                f"{position + nbytes}, the file has {file.size}"
            )
        places[key] = Place(file, position, nbytes, position)
        position += nbytes
    if position != file.size:
        raise DamagedError(f"{file.name} has {file.size - position} bytes behind its storages")
    return places
