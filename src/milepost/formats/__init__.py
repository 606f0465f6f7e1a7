"""File formats: one module each, from bytes to a snapshot. None imports a framework.

A file is recognised by its content, never by its name.
"""

from __future__ import annotations

from milepost.errors import DamagedError, UnknownFormatError
from milepost.formats import safetensors
from milepost.snapshot import Snapshot
from milepost.source import ByteSource, read_exactly


def open_source(source: ByteSource) -> Snapshot:
    """The snapshot in a file, whatever its format.

    Raises:
        UnknownFormatError: no format that milepost reads.
        DamagedError: it is of a known format, and not valid.
    """
    if source.size == 0:
        raise DamagedError(f"{source.name} is empty: restore it from a backup")
    start = bytes(read_exactly(source, 0, min(16, source.size)))
    if safetensors.recognises(start):
        return safetensors.open_source(source)
    raise UnknownFormatError(
        f"{source.name} is of no format that milepost reads (it begins with {start[:8]!r}): "
        "expected a store's folder, a model file or another safetensors file"
    )
