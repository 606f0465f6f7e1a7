"""Equinox's leaves: `equinox.tree_serialise_leaves`, arrays in `.npy` form one after another.

https://docs.kidger.site/equinox/api/serialisation. The file has no names: the leaves are
`0`, `1`, ... in the order of the tree. Numbers of Python's were made arrays when they were saved,
and cannot be told from those. A file of one array is a `.npy` file, unless what Equinox's own
example puts before the arrays is there: a line of JSON with the model's hyperparameters.
"""

from __future__ import annotations

import json
from typing import Any

from milepost.encodings.npy import MAGIC, Header, read_header
from milepost.errors import DamagedError, MilepostError
from milepost.formats.npy import array_record
from milepost.formats.place import Place
from milepost.snapshot import Description, Snapshot, closing_on_error
from milepost.source import ByteSource, read_exactly

_MAX_LINE = 64 << 10
# More than any model has that is known; each costs some time and memory.
_MAX_LEAVES = 30_000


def recognises(place: Place) -> bool:
    """An array that does not end with the file, or a line of JSON and an array."""
    if not place.start.startswith((MAGIC, b"{")):
        return False
    source = place.open()
    try:
        position = _first_array(source)
        return position is not None and (position > 0 or read_header(source).end < source.size)
    except MilepostError:
        return False
    finally:
        source.close()


def open_place(place: Place) -> Snapshot:
    """The snapshot of leaves saved by Equinox.

    Raises:
        DamagedError: it is not valid.
        UntrustedError, UnknownFormatError: an array holds objects, or records of several fields.
        VersionError: an array is in a newer form.
    """
    source = place.open()
    with closing_on_error([source]):
        first = _first_array(source)
        if first is None:
            raise DamagedError(f"{source.name} does not begin with an array")
        metadata = {"hyperparameters": _hyperparameters(source, first)} if first else {}
        headers = _headers(source, first)
        records = {
            # JAX has no type of two bytes that NumPy cannot name but bfloat16.
            str(number): array_record(source, header, void_is_bfloat16=True)
            for number, header in enumerate(headers)
        }
        return Snapshot(source.name, records, [source], Description("equinox", metadata))


def _first_array(source: ByteSource) -> int | None:
    """Where the first array begins: at once, or behind one line of JSON."""
    start = bytes(read_exactly(source, 0, min(source.size, _MAX_LINE)))
    if start.startswith(MAGIC):
        return 0
    line = start.find(b"\n")
    if start[:1] == b"{" and line > 0 and start[line + 1 :].startswith(MAGIC):
        return line + 1
    return None


def _hyperparameters(source: ByteSource, length: int) -> Any:
    line = bytes(read_exactly(source, 0, length))
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{source.name}: its first line is no JSON: {error}") from None


def _headers(source: ByteSource, position: int) -> list[Header]:
    headers: list[Header] = []
    while position < source.size:
        if len(headers) == _MAX_LEAVES:
            raise DamagedError(f"{source.name} has more than {_MAX_LEAVES:,} arrays")
        headers.append(read_header(source, position))
        position = headers[-1].end
    return headers
