"""When two leaves have the same content: by what is recorded of them, or by their bytes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

import blake3

from milepost import dtypes
from milepost.dtypes import Array
from milepost.inspection.numbers import Progress
from milepost.record import ArrayRecord, Record
from milepost.snapshot import Snapshot
from milepost.state import Plain

# The digest of each chunk, by its place in the array.
Recorded: TypeAlias = dict[Hashable, str]


def plain_key(value: Plain) -> Hashable:
    """Equal for values of one type that are the same; NaN is, and -0.0 is not 0.0."""
    return type(value), value.hex() if isinstance(value, float) else value


def recorded(record: Record) -> Recorded | None:
    """The digests in an array's record; None where its file has none."""
    if not isinstance(record, ArrayRecord) or not record.chunks:
        return None
    found: Recorded = {}
    for chunk in record.chunks:
        if chunk.digest is None:
            return None
        algorithm = chunk.digest.partition(":")[0]
        found[chunk.offset, chunk.shape, algorithm] = chunk.digest
    return found


def same_recorded(a: Record, b: Record) -> bool:
    """Whether two arrays of one spec are equal by their records, so that none need be read."""
    return recorded(a) is not None and recorded(a) == recorded(b)


def content_digest(snapshot: Snapshot, name: str, progress: Progress) -> str:
    """The digest of all that an array holds, in C order. One that is recorded is not computed."""
    known = recorded(snapshot.record(name))
    if known is not None and len(known) == 1:
        [digest] = known.values()
        if digest.startswith("blake3:"):
            return digest
    hasher = blake3.blake3(max_threads=blake3.blake3.AUTO)
    for _, part in snapshot.read_parts(name):
        hasher.update(_raw(part))
        progress(part.nbytes)
    return f"blake3:{hasher.hexdigest()}"


def _raw(part: Array) -> bytes | memoryview:
    if part.dtype.hasobject:
        return b"".join(len(text).to_bytes(8, "little") + text for text in part.reshape(-1))
    return dtypes.byte_view(dtypes.to_stored(part))
