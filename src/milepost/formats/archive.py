"""Zip archives: how they begin, and snapshots of those whose members are arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from milepost.encodings.zip import MARK, Archive
from milepost.errors import MilepostError
from milepost.formats.place import Place
from milepost.record import Record
from milepost.snapshot import Damage, Description, Snapshot
from milepost.source import ByteSource


def first_member(place: Place) -> bytes:
    """The name of the member that a zip archive begins with; empty for another file."""
    if not place.start.startswith(MARK):
        return b""
    length = int.from_bytes(place.start[26:28], "little")
    return place.head(30 + length)[30:]


class ArchiveSnapshot(Snapshot):
    """Arrays whose bytes an archive has checksums of: `members` tells in which each lies."""

    def __init__(
        self,
        archive: Archive,
        members: Mapping[str, str],
        records: Mapping[str, Record],
        files: Sequence[ByteSource],
        description: Description,
    ) -> None:
        super().__init__(archive.file.name, records, files, description)
        self._archive = archive
        self._members = members

    def damage(self) -> Iterator[Damage]:
        """Every array in a member that does not have its checksum. Reads everything."""
        found: dict[str, str] = {}
        for name, member in self._members.items():
            if member not in found:
                found[member] = self._problem(member)
            if found[member]:
                yield Damage(self.name, name, found[member])

    def _problem(self, member: str) -> str:
        try:
            self._archive.check(member)
        except (MilepostError, OSError) as error:
            return str(error)
        return ""
