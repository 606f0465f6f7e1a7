"""What is in a file or a member of an archive, told by its bytes, and what of it could do harm.

Whatever cannot be looked into is a finding: a scan fails closed.
"""

from __future__ import annotations

import codecs
import io
import tarfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from milepost.encodings import zip as zip_file
from milepost.errors import MilepostError, UntrustedError
from milepost.scanning.archives import ends_with_archive, has_tar_header
from milepost.scanning.compressed import inflated, inflater_for
from milepost.scanning.pickles import looks_like_pickle, scan_old_pickle, scan_pickles
from milepost.scanning.report import Finding, Severity
from milepost.scanning.stream import Stream
from milepost.scanning.texts import scan_text
from milepost.source import ByteSource, Window, read_exactly
from milepost.storage.memory import MemorySource

_START = 512
# What is looked into whole: a text, and what a compressed file unpacks to.
_MOST_TEXT, _MOST_UNPACKED = 64 << 20, 64 << 20
# Archives in archives: no model has more than two.
_DEEPEST = 4

# What says that an archive is one of torch.package.
_PACKAGE = ".data/extern_modules"
_PROGRAMS = {
    b"\x7fELF": "a program or library for Linux",
    b"\xcf\xfa\xed\xfe": "a program or library for macOS",
    b"\xca\xfe\xba\xbe": "a program for macOS, or of Java",
}
# Pictures, sounds, documents and tables. Formats of models are for their own readers to look at.
_HARMLESS = (
    b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"%PDF", b"OggS", b"fLaC", b"ID3",
    b"PAR1", b"ARROW1",
)  # fmt: skip


@dataclass(slots=True)
class Budget:
    """What a scan may still read of archives; a bomb ends it."""

    bytes_left: int = 8 << 30
    files_left: int = 1_000_000

    def take(self, nbytes: int) -> None:
        """Raises UntrustedError once a file unpacks to more than any model does."""
        self.bytes_left -= nbytes
        self.files_left -= 1
        if self.bytes_left < 0 or self.files_left < 0:
            raise UntrustedError("it unpacks to more than can be looked into: a bomb")


class ContentScanner:
    """Looks into one file, and what is in it.

    Arguments:
        budget: what may still be read of archives.
        known: whether the reader of some format looks at the file as a whole: then bytes of no
            kind that is known here are numbers.
    """

    def __init__(self, budget: Budget, *, known: bool) -> None:
        self._budget = budget
        self._known = known

    def scan(self, source: ByteSource, where: str, depth: int = 0) -> Iterator[Finding]:
        """Everything that a file, or a member of an archive, could do."""
        try:
            yield from self._scan(source, where, depth)
        except UntrustedError as error:
            yield Finding(Severity.DANGEROUS, where, "a trick", str(error))
        except (MilepostError, OSError, ValueError, RecursionError) as error:
            yield Finding(Severity.UNREADABLE, where, "unreadable", str(error))

    def _scan(self, source: ByteSource, where: str, depth: int) -> Iterator[Finding]:
        start = bytes(read_exactly(source, 0, min(_START, source.size)))
        self._budget.take(len(start))
        if depth > _DEEPEST:
            yield Finding(Severity.UNREADABLE, where, "unreadable", "archives nested too deeply")
            return
        program = next((why for mark, why in _PROGRAMS.items() if start.startswith(mark)), None)
        if program is not None or _is_windows_program(source, start):
            why = program or "a program or library for Windows"
            yield Finding(Severity.DANGEROUS, where, start[:4].hex(), why)
        # Such an archive may begin like anything, so whatever else it is, it is one.
        is_tar = has_tar_header(start)
        if is_tar:
            yield from self._tar(source, where, depth)
        if not (self._known and depth) and ends_with_archive(source):
            why = "a zip archive behind something else, which other readers open"
            yield Finding(Severity.DANGEROUS, where, "a hidden archive", why)
        if start.startswith(zip_file.MARK):
            yield from self._zip(source, where, depth)
        elif program is None and not (yield from self._unpacked(source, where, start, depth)):
            if looks_like_pickle(start):
                yield from scan_pickles(source, where, known=self._known)
            elif start and not is_tar:
                yield from self._rest(source, where, start)

    def _zip(self, source: ByteSource, where: str, depth: int) -> Iterator[Finding]:
        archive = zip_file.read_archive(source)
        for name in archive.members:
            if name.endswith(_PACKAGE):
                why = "torch.package imports the Python code in it"
                yield Finding(Severity.DANGEROUS, where, name, why)
            yield from self.scan(archive.source(name), f"{where}:{name}", depth + 1)

    def _unpacked(
        self, source: ByteSource, where: str, start: bytes, depth: int
    ) -> Generator[Finding, None, bool]:
        """What is in a compressed file; returns whether it is one."""
        make = inflater_for(start)
        if make is None:
            return False
        packed = bytes(read_exactly(source, 0, min(source.size, _MOST_UNPACKED)))
        data, is_whole = inflated(make, packed, _MOST_UNPACKED + 1)
        # A tensor may begin like one.
        if not data or (self._known and not is_whole and len(data) <= _MOST_UNPACKED):
            return False
        self._budget.take(len(data))
        if not is_whole or source.size > _MOST_UNPACKED:
            why = "is damaged, or unpacks to more than is looked into"
            yield Finding(Severity.UNREADABLE, where, "a compressed file", why)
        inner = f"{where}:unpacked"
        yield from self.scan(MemorySource(inner, data), inner, depth + 1)
        return True

    def _tar(self, source: ByteSource, where: str, depth: int) -> Iterator[Finding]:
        """The members of a tar archive, none of which may lead out of where it is unpacked."""
        try:
            with tarfile.open(fileobj=io.BufferedReader(Stream(source)), mode="r:") as archive:
                for member in archive:
                    self._budget.take(_START)
                    yield from self._tar_member(source, member, where, depth)
        except tarfile.TarError as error:
            yield Finding(Severity.UNREADABLE, where, "a tar archive", f"is damaged ({error})")

    def _tar_member(
        self, source: ByteSource, member: tarfile.TarInfo, where: str, depth: int
    ) -> Iterator[Finding]:
        inner = f"{where}:{member.name}"
        if member.name.startswith("/") or ".." in member.name.split("/"):
            yield Finding(Severity.DANGEROUS, inner, member.name, "is unpacked elsewhere")
        if member.isfile():
            window = Window(inner, source, member.offset_data, member.size)
            yield from self.scan(window, inner, depth + 1)
            if member.issparse():  # its content is put together from parts
                yield Finding(Severity.UNREADABLE, inner, member.name, "has holes")
        elif not member.isdir():
            what = member.linkname or member.name
            yield Finding(Severity.DANGEROUS, inner, what, "a link or a device in an archive")

    def _rest(self, source: ByteSource, where: str, start: bytes) -> Iterator[Finding]:
        """A pickle of the oldest kind, a text, the numbers of a model; or what nobody knows."""
        old = scan_old_pickle(source, where, start, known=self._known)
        if old is not None:
            yield from old
        elif start.startswith(_HARMLESS):
            return
        elif text := self._text(source, start):
            yield from scan_text(text, where)
        elif not self._known:
            what = start[:8].hex()
            yield Finding(Severity.UNREADABLE, where, what, "is of no kind that is known here")

    def _text(self, source: ByteSource, start: bytes) -> str | None:
        """A file that is a text throughout; None if it is none, or too long to look into."""
        if b"\0" in start or source.size > _MOST_TEXT:
            return None
        try:
            codecs.getincrementaldecoder("utf-8")().decode(start)
            text = bytes(read_exactly(source, 0, source.size)).decode()
        except UnicodeDecodeError:
            return None
        return None if "\0" in text else text


def _is_windows_program(source: ByteSource, start: bytes) -> bool:
    """Whether the two letters of the mark, which a tensor may begin with, lead to the header."""
    if not start.startswith(b"MZ") or len(start) < 64:
        return False
    place = int.from_bytes(start[60:64], "little")
    return place + 4 <= source.size and bytes(read_exactly(source, place, 4)) == b"PE\0\0"
