"""NumPy's `.npz`: a zip archive of arrays in `.npy` form, compressed or not.

https://numpy.org/doc/stable/reference/generated/numpy.savez.html. A leaf has the name that was
given to `savez`, which is the member's without `.npy`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from milepost.encodings.npy import read_header
from milepost.encodings.zip import read_archive
from milepost.errors import DamagedError, UnknownFormatError
from milepost.formats.archive import ArchiveSnapshot, first_member
from milepost.formats.names import leaf_name
from milepost.formats.npy import array_record
from milepost.formats.place import Place
from milepost.record import Record
from milepost.snapshot import Description, Snapshot, closing_on_error
from milepost.source import ByteSource

_SUFFIX = ".npy"
# Of those being inflated, each of which keeps places to go on from. Few are read at once.
_OPEN = 4
# Each costs some time and memory to look at.
_MAX_LEAVES = 30_000


def recognises(place: Place) -> bool:
    """A zip archive whose first member is called `.npy`."""
    return first_member(place).endswith(_SUFFIX.encode())


def open_place(place: Place) -> Snapshot:
    """The snapshot of a `.npz` file.

    Raises:
        DamagedError: it is not valid.
        UntrustedError: it holds objects, or readers would differ on what is in it.
        UnknownFormatError: it holds something else beside arrays.
        VersionError: an array is in a newer form.
    """
    file = place.open()
    with closing_on_error([file]):
        archive = read_archive(file)
        if len(archive.members) > _MAX_LEAVES:
            raise DamagedError(f"{file.name} has more than {_MAX_LEAVES:,} arrays")
        inflated = functools.lru_cache(_OPEN)(archive.source)
        records: dict[str, Record] = {}
        files: list[ByteSource] = [file]
        for name, member in archive.members.items():
            if not name.endswith(_SUFFIX):
                raise UnknownFormatError(
                    f"{file.name} has the member {name!r} beside arrays: expected a .npz file, "
                    "whose members are all .npy"
                )
            label = f"{file.name}:{name}"
            files.append(_Content(label, member.size, functools.partial(inflated, name)))
            records[_leaf(name, file)] = _record(files[-1], len(files) - 1)
        members = {leaf: leaf + _SUFFIX for leaf in records}
        return ArchiveSnapshot(archive, members, records, files, Description("npz"))


@dataclass(frozen=True, slots=True)
class _Content:
    """A member's content, whose inflater is made anew once it has not been used for long."""

    name: str
    size: int
    open: Callable[[], ByteSource]

    def read_into(self, offset: int, buffer: memoryview) -> int:
        return self.open().read_into(offset, buffer)

    def close(self) -> None:
        """The file belongs to the archive."""


def _leaf(name: str, file: ByteSource) -> str:
    return leaf_name(name.removesuffix(_SUFFIX).encode(), file.name)


def _record(source: ByteSource, number: int) -> Record:
    header = read_header(source)
    if header.end != source.size:
        raise DamagedError(
            f"{source.name}: the array ends at byte {header.end}, the member at {source.size}"
        )
    return array_record(source, header, number)
