"""What `torch.save` writes: a zip archive of one pickle, and of a member for each storage.

https://github.com/pytorch/pytorch/blob/main/torch/serialization.py

    NAME/data.pkl       the pickle, which refers to storages by their key
    NAME/data/KEY       the bytes of a storage
    NAME/byteorder      "little", or "big"
    NAME/version        of the archive's layout

TorchScript's archives (`torch.jit.save`) have `code/` and `constants.pkl` beside these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from milepost.encodings.pickle import interpret
from milepost.encodings.zip import MARK, Archive, read_archive
from milepost.errors import DamagedError, MilepostError
from milepost.formats.archive import first_member
from milepost.formats.place import Place as FilePlace
from milepost.formats.torch_calls import Builder
from milepost.formats.torch_records import Place, Records
from milepost.formats.torch_script import add_script, is_script
from milepost.formats.torch_tree import Tree
from milepost.formats.torch_values import Storage
from milepost.record import Record
from milepost.snapshot import Damage, Description, Snapshot, closing_on_error

_MAX_PICKLE = 128 << 20
_PICKLE = "/data.pkl"
_FIRST = re.compile(rb"[^/]+/data\.pkl")  # the first member, unless something packed it again
_LAST = (b"/version", b"/.data/serialization_id")  # the last ones that PyTorch writes


def recognises(place: FilePlace) -> bool:
    """A zip archive that has a `data.pkl` in its one folder."""
    if not place.start.startswith(MARK):
        return False
    if _FIRST.fullmatch(first_member(place)):
        return True
    file = place.open()
    try:
        return _root(read_archive(file)) is not None
    except MilepostError:
        # A broken one is of this format by its marks, for a message that helps.
        return _PICKLE.encode() in place.start or any(name in place.end for name in _LAST)
    finally:
        file.close()


def open_place(place: FilePlace) -> Snapshot:
    """The snapshot of a PyTorch file.

    Raises:
        DamagedError: it is not valid.
        UntrustedError: it calls what is no part of a model, or readers would differ on it.
        VersionError: its pickle is of a newer protocol.
    """
    file = place.open()
    with closing_on_error([file]):
        archive = read_archive(file)
        root = _root(archive)
        if root is None:
            raise DamagedError(f"{file.name} has no data.pkl in it")
        return _snapshot(archive, root)


def _root(archive: Archive) -> str | None:
    """The folder of the pickle, if there is one and no more."""
    roots = [name.removesuffix(_PICKLE) for name in archive.members if name.endswith(_PICKLE)]
    roots = [root for root in roots if "/" not in root]
    return roots[0] if len(roots) == 1 else None


def _snapshot(archive: Archive, root: str) -> Snapshot:
    name = archive.file.name
    tree = Tree(name)
    builder = Builder(name)
    data = archive.read(root + _PICKLE, _MAX_PICKLE)
    value = interpret(data, builder, f"{name}:{root}{_PICKLE}")
    byte_order = _byte_order(archive, root)
    script = is_script(archive, root)
    if script:
        add_script(tree, value, archive, root)
    else:
        tree.add(value)
    records = Records(name, _Places(archive, f"{root}/data"), byte_order).of(tree)
    if script and f"{root}/constants.pkl" in archive.members:
        records |= _constants(archive, root, byte_order)
    producer = "TorchScript" if script else "PyTorch zip"
    metadata: dict[str, Any] = {"producer": producer, **_version(archive, root), **tree.facts()}
    return TorchSnapshot(archive, records, Description("torch", metadata))


def _constants(archive: Archive, root: str, byte_order: str) -> dict[str, Record]:
    """The constants of TorchScript's code: a tuple of tensors, in a folder of their own."""
    member = f"{root}/constants.pkl"
    label = f"{archive.file.name}:{member}"
    tree = Tree(label)
    tree.add(interpret(archive.read(member, _MAX_PICKLE), Builder(label), label), "constants")
    return Records(label, _Places(archive, f"{root}/constants"), byte_order).of(tree)


class _Places:
    """Where the storages of an archive are."""

    def __init__(self, archive: Archive, folder: str) -> None:
        self._archive = archive
        self._folder = folder
        self._found: dict[str, Place] = {}

    def __call__(self, storage: Storage) -> Place:
        key = storage.key
        if key not in self._found:
            self._found[key] = self._place(f"{self._folder}/{key}", storage)
        return self._found[key]

    def _place(self, name: str, storage: Storage) -> Place:
        member = self._archive.members.get(name)
        if member is None and storage.numel == 0:
            return Place(self._archive.file, 0, 0, 0)
        source = self._archive.source(name)
        size = self._archive.members[name].size
        position = member.offset if member is not None and member.stored else None
        return Place(source, 0, size, position)


def _byte_order(archive: Archive, root: str) -> str:
    name = f"{root}/byteorder"
    text = archive.read(name, 16) if name in archive.members else b"little"
    if text not in (b"little", b"big"):
        raise DamagedError(f"{archive.file.name}:{name} is {text!r}, expected little or big")
    return "<" if text == b"little" else ">"


def _version(archive: Archive, root: str) -> dict[str, str]:
    name = f"{root}/version"
    if name not in archive.members:
        return {}
    return {"version": archive.read(name, 64).decode("ascii", "replace").strip()}


class TorchSnapshot(Snapshot):
    """Tensors in an archive, which has checksums of its members."""

    def __init__(
        self, archive: Archive, records: dict[str, Record], description: Description
    ) -> None:
        super().__init__(archive.file.name, records, [archive.file], description)
        self._archive = archive

    def damage(self) -> Iterator[Damage]:
        """Every member that does not have the archive's checksum. Reads everything."""
        for name in self._archive.members:
            try:
                self._archive.check(name)
            except (MilepostError, OSError) as error:
                yield Damage(self.name, None, str(error))
