"""Writing leaves and a document into one safetensors file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping

from milepost import container, dtypes
from milepost.buffers import BLOCK
from milepost.chunk import Chunk, Shape
from milepost.digest import Buffer
from milepost.pieces import DigestedArray, Piece, check_all, cut_array, digest_array, layout_order
from milepost.record import ArrayRecord, PlainRecord, Record
from milepost.staging import FEW, Slots, Staging, Transfer
from milepost.state import Leaf, is_array, is_plain
from milepost.storage.direct import DirectWriter
from milepost.storage.filesystem import FileSystem, Handle
from milepost.storage.local import replacing

# From the records of the leaves to the `__metadata__` of the file.
Metadata = Callable[[Mapping[str, Record]], Mapping[str, str]]


def write_file(
    target: str,
    leaves: Mapping[str, Leaf],
    ties: Mapping[str, str],
    metadata: Metadata,
    filesystem: FileSystem | None = None,
) -> int:
    """Write a file beside its target, sync it, and let it take the target's place.

    A leaf that is tied to another has no tensor of its own. Returns the size of all tensors.

    Every array is read once: a digest is as long before it is known as after, so the header's
    place is known, and the data is digested on its way past. The header is written last.

    Raises:
        UsageError: an array changed meanwhile.
        StorageError, PathNotFoundError: it cannot be written; what was there is as it was.
    """
    arrays = {
        name: cut_array(name, leaf)
        for name, leaf in leaves.items()
        if is_array(leaf) and name not in ties
    }
    header, length = _header(arrays, metadata(_records(leaves, ties, arrays)))
    with replacing(target, len(header) + length, filesystem) as (fs, handle):
        arrays = _write_data(fs, handle, len(header), arrays)
        final, _ = _header(arrays, metadata(_records(leaves, ties, arrays)))
        assert len(final) == len(header), "no digest is longer than another"
        fs.write_at(handle, 0, final)
    return length


def _write_data(
    fs: FileSystem, handle: Handle, start: int, arrays: Mapping[str, DigestedArray]
) -> dict[str, DigestedArray]:
    """Write the bytes of arrays one after another; returns them with their digests.

    Raises:
        UsageError: one of them is not now what was written: the file would hold a state that
            never was.
    """
    ordered = _ordered(arrays.values())
    digested: dict[str, list[Piece]] = {name: [] for name in arrays}

    def write(staging: Staging) -> dict[str, DigestedArray]:
        with (
            DirectWriter(fs, handle, start) as writer,
            contextlib.closing(staging.digested()) as batches,
        ):
            for batch in batches:
                for (array, _), piece in zip(batch.parts, batch.pieces, strict=True):
                    digested[array.name].append(piece)
                for span in batch.spans([True] * len(batch.parts)):
                    writer.append(*span)
            done = {a.name: a.digested(digested[a.name]) for a in ordered}
            check_all(done.values())  # while the last of them is on its way to the disk
        return done

    with Transfer(write) as transfer:
        transfer.fill([(array, array.pieces) for array in ordered], Slots(FEW))
        transfer.end()
        return transfer.result()


def _header(arrays: Mapping[str, DigestedArray], metadata: Mapping[str, str]) -> tuple[bytes, int]:
    """The header of a file whose data can be written past the page cache, and its length."""
    return container.build_header(_entries(_ordered(arrays.values())), metadata, BLOCK)


def digested(
    leaves: Mapping[str, Leaf], ties: Mapping[str, str]
) -> tuple[dict[str, DigestedArray], dict[str, Record]]:
    """The arrays that are to be written, and the records of all leaves."""
    arrays = {
        name: digest_array(name, leaf)
        for name, leaf in leaves.items()
        if is_array(leaf) and name not in ties
    }
    return arrays, _records(leaves, ties, arrays)


def _records(
    leaves: Mapping[str, Leaf], ties: Mapping[str, str], arrays: Mapping[str, DigestedArray]
) -> dict[str, Record]:
    return {name: _record(leaf, arrays.get(ties.get(name, name))) for name, leaf in leaves.items()}


def contents(
    arrays: Iterable[DigestedArray], metadata: Mapping[str, str]
) -> tuple[Iterator[Buffer], int]:
    """The bytes of a file with these arrays, and how many there are."""
    ordered = _ordered(arrays)
    header, length = container.build_header(_entries(ordered), metadata)
    return _parts(header, ordered), len(header) + length


def _ordered(arrays: Iterable[DigestedArray]) -> list[DigestedArray]:
    return sorted(arrays, key=layout_order)


def _entries(arrays: list[DigestedArray]) -> Iterator[tuple[str, str, Shape, int]]:
    for array in arrays:
        yield array.name, *dtypes.container_type(array.dtype, array.shape), array.nbytes


def _record(leaf: Leaf, array: DigestedArray | None) -> Record:
    if is_plain(leaf):
        return PlainRecord(leaf)
    assert array is not None, "every array leaf was digested, or is tied to one that was"
    chunks = tuple(
        Chunk(p.offset, p.shape, p.digest, p.checksum, 0, p.start, p.nbytes) for p in array.pieces
    )
    return ArrayRecord(array.dtype, array.shape, chunks)


def _parts(header: bytes, arrays: list[DigestedArray]) -> Iterator[Buffer]:
    yield header
    for array in arrays:
        yield from array.data(array.pieces)
