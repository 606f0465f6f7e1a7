"""What a scan found."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Severity(enum.IntEnum):
    """How bad a finding is; a verdict is that of the worst."""

    NOTE = 0  # worth knowing, and harmless
    UNREADABLE = 1  # nobody can say what it does
    SUSPICIOUS = 2  # may run code, or reach outside, when it is opened the usual way
    DANGEROUS = 3  # does so


VERDICTS = {
    Severity.NOTE: "clean",
    Severity.UNREADABLE: "unreadable",
    Severity.SUSPICIOUS: "suspicious",
    Severity.DANGEROUS: "dangerous",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a file could do to who opens it the usual way.

    Attributes:
        severity: how bad it is.
        where: the file, and the member of it (`model.pt:archive/data.pkl`).
        what: what stands there: `os.system`, a layer's name, a link's target.
        why: what it would do, or why it cannot be told.
        offset: of a pickle's opcode, in bytes from the start of the pickle's file or member.
    """

    severity: Severity
    where: str
    what: str
    why: str
    offset: int | None = None

    def __str__(self) -> str:
        place = "" if self.offset is None else f" at byte {self.offset}"
        return f"{self.where}{place}: {self.what}: {self.why}"


@dataclass(frozen=True, slots=True)
class ScanReport:
    """What a scan of a file or folder found.

    Attributes:
        path: what was scanned.
        files: how many files were looked into.
        findings: everything that was found, in the order of the files.
    """

    path: str
    files: int
    findings: Sequence[Finding]

    @property
    def verdict(self) -> str:
        """`"clean"`, `"unreadable"`, `"suspicious"` or `"dangerous"`: that of the worst finding."""
        return VERDICTS[max((f.severity for f in self.findings), default=Severity.NOTE)]

    @property
    def is_clean(self) -> bool:
        """Whether everything could be looked into, and nothing of it does any harm."""
        return self.verdict == "clean"
