"""Writing leaves and a document into one safetensors file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from milepost import container, dtypes
from milepost.digest import Buffer
from milepost.pieces import DigestedArray, digest_array
from milepost.record import ArrayRecord, Chunk, PlainRecord, Record
from milepost.state import Leaf, is_array, is_plain
from milepost.storage.filesystem import FileSystem
from milepost.storage.local import replace_file

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

    Raises:
        StorageError, PathNotFoundError: it cannot be written; what was there is as it was.
    """
    arrays = {
        name: digest_array(name, leaf)
        for name, leaf in leaves.items()
        if is_array(leaf) and name not in ties
    }
    records = {
        name: _record(leaf, arrays.get(ties.get(name, name))) for name, leaf in leaves.items()
    }
    # Wide elements first: then each tensor is aligned to its own element size.
    ordered = sorted(arrays.values(), key=lambda a: -dtypes.numpy_dtype(a.dtype).itemsize)
    header, length = container.build_header(
        ((a.name, *dtypes.container_type(a.dtype, a.shape), a.nbytes) for a in ordered),
        metadata(records),
    )
    replace_file(target, _parts(header, ordered), len(header) + length, filesystem)
    return length


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
