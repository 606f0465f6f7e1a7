"""The header of an array in NumPy's `.npy` form: what its type is, and where its bytes lie.

    \\x93NUMPY, version, length     then a Python dictionary as text, padded, and a new line:
    {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. The text is matched
against what may be in it, never evaluated.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from milepost.errors import DamagedError, UnknownFormatError, UntrustedError, VersionError
from milepost.limits import is_shape, shown
from milepost.source import ByteSource, read_exactly

MAGIC = b"\x93NUMPY"
# NumPy's own limit, `max_header_size`.
_MAX_TEXT = 10_000
# Of the length, and how the text is encoded, for each version.
_VERSIONS = {(1, 0): (2, "latin-1"), (2, 0): (4, "latin-1"), (3, 0): (4, "utf-8")}
_KEYS = {"descr", "fortran_order", "shape"}
_ENTRY = re.compile(
    r"""\s*(['"])(?P<key>\w{1,20})\1\s*:\s*
    (?: (['"])(?P<text>[^'"]*)\3 | (?P<truth>True|False)
      | \((?P<tuple>[\dL,\s]*)\) | (?P<fields>\[.*\]) )
    \s*(?:,|$)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_DESCR = re.compile(
    r"(?P<order>[<>|=]?)(?P<kind>[a-zA-Z?])(?P<size>\d{0,9})(?P<unit>\[\w+\])?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Header:
    """What the header says of an array.

    Attributes:
        kind: NumPy's letter of the type: `f`, `i`, `M`, `S`, `V`, ...
        itemsize: of an element, in bytes (NumPy counts the characters of a `U`, not these).
        unit: of a time, `[ns]`.
        descr: the type as it is written.
        big_endian: whether the most significant byte comes first.
        start: where the array's bytes begin in the file.
    """

    kind: str
    itemsize: int
    unit: str
    descr: str
    big_endian: bool
    fortran_order: bool
    shape: tuple[int, ...]
    start: int

    @property
    def end(self) -> int:
        """Where the array's bytes end in the file."""
        return self.start + math.prod(self.shape) * self.itemsize


def read_header(source: ByteSource, position: int = 0) -> Header:
    """The header at `position`, checked: the array lies in the file.

    Raises:
        DamagedError: there is none, or the array would end behind the file.
        UntrustedError: its elements are pickled Python objects.
        UnknownFormatError: they are records of several fields.
        VersionError: it is of a version that is unknown here.
    """
    where = f"{source.name}, byte {position}" if position else source.name
    text, start = _read_text(source, position, where)
    entries = _parse(text, where)
    header = _check(entries, start, where)
    if header.end > source.size:
        raise DamagedError(
            f"{where}: the array {header.descr} of shape {list(header.shape)} would end at byte "
            f"{header.end}, the file has {source.size}: it is cut short, or no .npy"
        )
    return header


def _read_text(source: ByteSource, position: int, where: str) -> tuple[str, int]:
    """The dictionary as text, and where the data begins."""
    mark = bytes(read_exactly(source, position, min(12, max(0, source.size - position))))
    if len(mark) < 12 or not mark.startswith(MAGIC):
        raise DamagedError(f"{where}: expected an array in .npy form, found {mark[:8]!r}")
    version = (mark[6], mark[7])
    if version not in _VERSIONS:
        raise VersionError(f"{where}: .npy of version {mark[6]}.{mark[7]}; 3.0 is the newest known")
    width, encoding = _VERSIONS[version]
    length = int.from_bytes(mark[8 : 8 + width], "little")
    if length > _MAX_TEXT:
        raise DamagedError(f"{where}: a .npy header of {length} bytes; {_MAX_TEXT} are allowed")
    start = position + 8 + width
    try:
        return bytes(read_exactly(source, start, length)).decode(encoding), start + length
    except UnicodeDecodeError as error:
        raise DamagedError(f"{where}: the .npy header is no text: {error}") from None


def _parse(text: str, where: str) -> dict[str, re.Match[str]]:
    text = text.strip()
    entries: dict[str, re.Match[str]] = {}
    if text.startswith("{") and text.endswith("}"):
        inside, position = text[1:-1].strip(), 0
        while match := _ENTRY.match(inside, position):
            if match["key"] in entries:
                break
            entries[match["key"]] = match
            position = match.end()
        if position == len(inside) and entries.keys() == _KEYS:
            return entries
    raise DamagedError(
        f"{where}: expected a .npy header with {', '.join(sorted(_KEYS))}, found {shown(text)}"
    )


def _check(entries: dict[str, re.Match[str]], start: int, where: str) -> Header:
    descr, truth, sizes = (
        entries["descr"]["text"],
        entries["fortran_order"]["truth"],
        entries["shape"]["tuple"],
    )
    if entries["descr"]["fields"]:
        raise UnknownFormatError(
            f"{where}: an array of records, {shown(entries['descr']['fields'])}: milepost reads "
            "arrays of one type; save each field as an array of its own"
        )
    shape = None if sizes is None else _shape(sizes)
    match = _DESCR.fullmatch(descr or "")
    if match is None or truth is None or shape is None:
        raise DamagedError(f"{where}: the .npy header has a wrong type, order or shape")
    if match["kind"] == "O":
        raise UntrustedError(
            f"{where}: an array of Python objects, which are pickled: to read them is to run what "
            "is in them. Save numbers instead, without dtype=object"
        )
    size = int(match["size"] or (8 if match["kind"] in "mM" else 0))
    itemsize = 4 * size if match["kind"] == "U" else size
    if not 0 < itemsize < 1 << 32:
        raise DamagedError(f"{where}: elements of the type {descr!r} have {itemsize} bytes")
    if not is_shape([*shape, itemsize]):
        raise DamagedError(f"{where}: the shape {shown(shape)} is too large for any file")
    return Header(
        match["kind"],
        itemsize,
        match["unit"] or "",
        match[0],
        match["order"] == ">",
        truth == "True",
        tuple(shape),
        start,
    )


def _shape(text: str) -> list[int] | None:
    """The numbers of a tuple; Python 2 wrote an L behind each."""
    parts = [part.strip() for part in text.split(",")]
    if parts[-1] == "":
        parts.pop()
    elif len(parts) == 1:
        return None  # `(3)` is a number
    if not all(re.fullmatch(r"[0-9]{1,19}L?", part) for part in parts):
        return None
    return [int(part.rstrip("L")) for part in parts]
