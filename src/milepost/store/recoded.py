"""Packs of compacted chunks: where each lies, across the manifests of several steps.

A chunk's `file` is an index into its manifest's own list of packs. While steps are compared
with one another, it is an index into one list of all packs that were met.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from milepost import container, digest, dtypes, reading, sealed
from milepost.buffers import ALIGNMENT, BLOCK, Buffers
from milepost.chunk import Chunk, Encoding, Shape
from milepost.dtypes import byte_view
from milepost.errors import DamagedError, MilepostError
from milepost.reading import Part
from milepost.record import CHUNK_BYTES, ArrayRecord, Record
from milepost.storage.base import NewObject
from milepost.store.manifest import Manifest, PackRef
from milepost.store.pack import slice_name, unique_name
from milepost.store.recode import Encoded
from milepost.store.snapshot import PackSource
from milepost.store.store import Store


def renumbered(chunk: Chunk, index: Callable[[int], int]) -> Chunk:
    """The same chunk, and its bases, with `file` as `index` gives it for what it was."""
    encoding = chunk.encoding
    if encoding is not None and encoding.base is not None:
        encoding = replace(encoding, base=renumbered(encoding.base, index))
    return _placed(chunk, index(chunk.file), chunk.position, encoding)


def _placed(
    chunk: Chunk, file: int, position: int, encoding: Encoding | None, box: Chunk | None = None
) -> Chunk:
    """The chunk as it lies elsewhere; for the box of another, if one is given."""
    # By hand: `dataclasses.replace` takes ten times as long.
    box = box or chunk
    own = chunk.digest, chunk.checksum
    return Chunk(box.offset, box.shape, *own, file, position, chunk.nbytes, encoding)


def _files(chunk: Chunk) -> set[int]:
    """The files of a chunk and its bases."""
    base = None if chunk.encoding is None else chunk.encoding.base
    return {chunk.file} | (set() if base is None else _files(base))


class Packs:
    """All packs that were met, and their files."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._index: dict[PackRef, int] = {}
        self._refs: list[PackRef] = []
        self._files: list[PackSource] = []
        self._there: dict[int, bool] = {}
        self._used: set[int] = set()
        self._plain: dict[str | None, Chunk] = {}
        self._memory = Buffers(None, ALIGNMENT)

    def index(self, ref: PackRef) -> int:
        """The index of a pack, from now on."""
        if ref not in self._index:
            self.fill(self.reserve(), ref)
        return self._index[ref]

    def reserve(self) -> int:
        """An index for a pack that is not written yet."""
        self._refs.append(_UNWRITTEN)
        self._files.append(PackSource(self._store.storage, _UNWRITTEN, _missing))
        return len(self._refs) - 1

    def fill(self, index: int, ref: PackRef) -> None:
        """The pack is there."""
        self._index[ref] = index
        self._refs[index] = ref
        self._files[index] = PackSource(self._store.storage, ref, _missing)

    @contextlib.contextmanager
    def raw(self, leaf: str, chunk: Chunk) -> Iterator[memoryview]:
        """The raw bytes of a chunk, checked; in memory that is used again after the block."""
        plain = self._plain.get(chunk.digest)
        if plain is not None and self.has(plain):
            chunk = plain
        memory = self._memory.take(max(chunk.nbytes, CHUNK_BYTES))
        try:
            data = byte_view(memory)[: chunk.nbytes]
            self._used |= _files(chunk)
            reading.fetch(self._files, [Part(leaf, chunk, data)])
            yield data
        finally:
            self._memory.give(memory)

    def remember(self, plain: Chunk) -> None:
        """Where the raw bytes of a base lie: for as long as they do, they are read from there."""
        self._plain[plain.digest] = plain

    def forget(self, needed: Callable[[str | None], bool]) -> None:
        """Of what is remembered, forget all but what is `needed`, by its digest."""
        self._plain = {value: chunk for value, chunk in self._plain.items() if needed(value)}

    def has(self, chunk: Chunk) -> bool:
        """Whether a chunk can be read: `prune` may have removed its pack, or that of its base.

        True for as long as the caller holds the store's lock, which it does until `close`.
        """
        files = _files(chunk)
        for index in files - self._there.keys():
            self._there[index] = self.are_there([self._refs[index]])
        return all(self._there[index] for index in files)

    def close(self) -> None:
        """Close the files; each is opened again when it is needed."""
        self._there.clear()
        for index in self._used:
            self._files[index].close()
        self._used.clear()

    def are_there(self, refs: Iterable[PackRef]) -> bool:
        """Whether packs still are: `prune` may have removed what no manifest referred to."""
        try:
            for ref in refs:
                PackSource(self._store.storage, ref, _missing).open().close()
        except (MilepostError, OSError):
            return False
        return True

    def manifest(self, old: Manifest, placed: dict[str, Chunk]) -> Manifest:
        """The manifest of the same checkpoint whose chunks lie where `placed` says, by digest."""
        own = [self.index(ref) for ref in old.packs]
        used: dict[int, int] = {}

        def local(index: int) -> int:
            return used.setdefault(index, len(used))

        def moved(item: Record) -> Record:
            if not isinstance(item, ArrayRecord):
                return item
            found = []
            for chunk in item.chunks:
                now = placed.get(str(chunk.digest)) or renumbered(chunk, own.__getitem__)
                now = renumbered(now, local)
                found.append(_placed(now, now.file, now.position, now.encoding, box=chunk))
            return replace(item, chunks=tuple(found))

        records = {name: moved(item) for name, item in old.records.items()}
        return replace(old, records=records, packs=tuple(self._refs[index] for index in used))


_UNWRITTEN = PackRef("", 0, "")


def _missing(pack: str) -> MilepostError:
    return DamagedError(f"{pack} is missing")


class NewPack:
    """A pack of compacted chunks that is being written, one after another."""

    def __init__(
        self, name: str, index: int, planned: Sequence[tuple[str, str, Shape, Chunk]]
    ) -> None:
        """`planned`: of each chunk its leaf, the dtype and shape of that, and where it lies now.

        `index` is that of the pack among all that were met.
        """
        self.name, self.index = name, index
        taken = {"__metadata__"}
        self._names = {
            str(chunk.digest): (unique_name(_title(leaf, shape, chunk), taken), dtype)
            for leaf, dtype, shape, chunk in planned
        }
        self._added: dict[str | None, Chunk] = {}
        self._ref: PackRef | None = None
        longest = [self._longest(chunk) for *_, chunk in planned]
        self.head_bytes = len(self._header(longest, BLOCK)[0])
        self.most_bytes = self.head_bytes + sum(chunk.nbytes for chunk in longest)
        self._position = self.head_bytes

    @staticmethod
    def _longest(chunk: Chunk) -> Chunk:
        """A chunk whose entry in the header is longer than any that it may get."""
        digits = str(chunk.checksum)
        encoding = Encoding("planes", chunk.nbytes, digits, 8, 4, chunk)
        return _placed(chunk, chunk.file, chunk.position, encoding)

    def add(self, pack: NewObject, chunk: Chunk, encoded: Encoded) -> Chunk:
        """Write a chunk after those before; returns what it is now. No bytes are written twice."""
        if chunk.digest in self._added:
            return self._added[chunk.digest]
        for part in encoded.parts:
            pack.append(memoryview(part), lambda: None)
        encoding = encoded.encoding
        now = _placed(chunk, self.index, self._position, encoding)
        self._position += encoding.nbytes
        self._added[now.digest] = now
        return now

    def header(self) -> bytes:
        """The header, as long as was planned, once all chunks are added."""
        header, length = self._header(list(self._added.values()), self.head_bytes)
        self._ref = PackRef(self.name, len(header) + length, digest.digest(header))
        return header

    @property
    def ref(self) -> PackRef:
        assert self._ref is not None, "its header is made"
        return self._ref

    def _header(self, added: Sequence[Chunk], alignment: int) -> tuple[bytes, int]:
        tensors, index = [], []
        for chunk in added:
            title, dtype = self._names[str(chunk.digest)]
            entry: list[Any] = [chunk.stored_bytes, chunk.digest, chunk.checksum]
            code, shape = dtypes.container_type(dtype, chunk.shape)
            if chunk.encoding is not None and chunk.is_encoded:
                title = f"{title}~{chunk.encoding.codec}"
                code, shape = "U8", (chunk.stored_bytes,)
                entry.append(_encoding(chunk.encoding))
            tensors.append((title, code, shape, chunk.stored_bytes))
            index.append([title, *entry])
        body = sealed.seal("pack", {"chunks": index}, version=2).decode()
        return container.build_header(tensors, {"milepost": body}, alignment)


def _encoding(encoding: Encoding) -> dict[str, Any]:
    """What a pack says of an encoding: of the base its digest only, by which it is found."""
    base = {} if encoding.base is None else {"base": encoding.base.digest}
    return {
        "codec": encoding.codec,
        "width": encoding.width,
        "low": encoding.low,
        "checksum": encoding.checksum,
        **base,
    }


def _title(leaf: str, shape: Shape, chunk: Chunk) -> str:
    return leaf if chunk.shape == shape else slice_name(leaf, chunk.offset, chunk.shape)
