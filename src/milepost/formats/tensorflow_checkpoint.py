"""TensorFlow checkpoints: an index, and data files of the same prefix beside it.

    ckpt-7.index                  a table: what each tensor is, where it lies, its checksum
    ckpt-7.data-00000-of-00001    the tensors
    checkpoint                    a text that names the latest in the folder

Opened by the prefix, the index, or the folder. Checkpoints of objects (`tf.train.Checkpoint`)
have readable names, and answer to further ones: see `tensorflow_objects`.

https://www.tensorflow.org/guide/checkpoint
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from milepost.encodings.sstable import MAGIC
from milepost.errors import DamagedError, MilepostError, UntrustedError, UsageError
from milepost.formats.names import leaf_name
from milepost.formats.place import Place
from milepost.formats.tensorflow_bundle import read_bundle
from milepost.formats.tensorflow_objects import (
    GRAPH_KEY,
    MAX_GRAPH_BYTES,
    ObjectGraph,
    aliases,
    readable_names,
)
from milepost.formats.tensorflow_records import UNREADABLE, Build, StoredText, open_beside
from milepost.record import PlainRecord, Record
from milepost.snapshot import Damage, Description, Snapshot
from milepost.source import ByteSource, read_exactly

SUFFIX = ".index"
_DATA = ".data-00000-of-"
_STATE = "checkpoint"
_LATEST = re.compile(rb'^\s*model_checkpoint_path\s*:\s*"((?:[^"\\\n]|\\.)*)"', re.MULTILINE)
_MAX_STATE_BYTES = 1 << 20
# How many of the tensors that cannot be read are named.
_MOST_NAMED = 100


def recognises(place: Place) -> bool:
    """A table's mark at the end of a file; in a folder, an index with its data."""
    if place.is_folder:
        return bool(_prefixes(place.names))
    return place.end.endswith(MAGIC)


def open_place(place: Place) -> Snapshot:
    """The snapshot of a checkpoint, or of the latest one in a folder.

    Raises:
        DamagedError: it is not valid, or files are missing.
        UntrustedError: it refers to something outside of its folder.
        UsageError: the folder has several checkpoints, and does not tell which is the latest.
        UnknownFormatError, VersionError: it is of an older or a newer format.
        MissingPackageError: the package for its checksums is not installed.
    """
    if not place.is_folder:
        return open_index(place.open())
    return open_index(open_beside(place.beside(_latest(place) + SUFFIX)))


def open_index(source: ByteSource, name: str | None = None) -> CheckpointSnapshot:
    """The snapshot of an index, which is closed, and the data beside it.

    `name` is what messages call it, if not by its path. Raises what `open_place` does.
    """
    try:
        build = Build(source.name.removesuffix(SUFFIX), read_bundle(source))
    finally:
        source.close()
    try:
        return _snapshot(name or source.name, build)
    except BaseException:
        for shard in build.shards.values():
            shard.close()
        raise


def _snapshot(name: str, build: Build) -> CheckpointSnapshot:
    entries = build.bundle.entries
    texts = {key: leaf_name(key, name) for key in entries if not key.startswith(b"\0")}
    is_graph = texts.pop(GRAPH_KEY.encode(), None) is not None
    names = readable_names(texts.values()) if is_graph else {key: key for key in texts.values()}
    records: dict[str, Record] = {}
    unreadable: dict[str, str] = {}
    for key, text in texts.items():
        kind = UNREADABLE.get(entries[key].dtype)
        if kind is not None:
            unreadable[names.pop(text)] = kind
        else:
            records[names[text]] = build.record(key, names[text])
    graph = _graph(name, build) if is_graph else None
    build.check_all_used()
    metadata = {
        "prefix": os.path.basename(build.prefix),
        "kind": "objects" if is_graph else "names",
        "data files": build.bundle.shards,
        "unreadable": dict(list(unreadable.items())[:_MOST_NAMED]),
    }
    description = Description("TensorFlow checkpoint", metadata)
    files = list(build.shards.values())
    return CheckpointSnapshot(name, records, files, description, Names(names, graph))


def _graph(name: str, build: Build) -> StoredText:
    record = build.record(GRAPH_KEY.encode(), GRAPH_KEY)
    if not isinstance(record, StoredText):
        raise DamagedError(f"{name}: its object graph is no text, but {record.spec}")
    return record


@dataclass(frozen=True, slots=True)
class Names:
    """The leaf of each key in the file, and the graph that knows further names."""

    keys: Mapping[str, str]
    graph: StoredText | None


class CheckpointSnapshot(Snapshot):
    """A checkpoint, whose leaves answer to their keys in the file and to paths of the graph, too.

    Iterating yields each leaf once, by its readable name.
    """

    def __init__(
        self,
        name: str,
        records: Mapping[str, Record],
        files: Sequence[ByteSource],
        description: Description,
        names: Names,
    ) -> None:
        super().__init__(name, records, files, description)
        self._names = names.keys
        self._graph = names.graph

    def record(self, name: str) -> Record:
        found = self.canonical(name)
        return super().record(name if found is None else found)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.canonical(name) is not None

    def aliases(self) -> dict[str, str]:
        """Further names of leaves, and the leaf that each means: keys, paths, own names.

        Objects may refer to one another in circles, and a leaf have any number of paths: these
        are the shortest ones. Every other path is a name, too.
        """
        graph = self._object_graph
        return aliases(graph, self._names) if graph else {}

    def damage(self) -> Iterator[Damage]:
        yield from super().damage()
        texts = {name: r for name, r in self._records.items() if isinstance(r, PlainRecord)}
        for name, text in {**texts, **({GRAPH_KEY: self._graph} if self._graph else {})}.items():
            try:
                _ = text.value
            except (MilepostError, OSError) as error:
                yield Damage(self.name, name, str(error))

    def canonical(self, name: str) -> str | None:
        """The leaf that a name means."""
        if name in self._records:
            return name
        if name in self._names:
            return self._names[name]
        key = self._object_graph.key(name) if self._object_graph else None
        return None if key is None else self._names.get(key)

    @functools.cached_property
    def _object_graph(self) -> ObjectGraph | None:
        """The graph, read when it is first needed."""
        if self._graph is None:
            return None
        if self._graph.nbytes > MAX_GRAPH_BYTES:
            raise DamagedError(
                f"{self.name}: its object graph has {self._graph.nbytes:,} bytes, more than any "
                "that is known; its leaves have the names that it lists"
            )
        return ObjectGraph(self._graph.value, self.name)


def _prefixes(names: Collection[str]) -> list[str]:
    """The checkpoints in a folder: what has an index, and data."""
    indexes = [name for name in names if name.endswith(SUFFIX)]
    if not indexes:
        return []
    with_data = {name[: name.index(_DATA)] for name in names if _DATA in name}
    return sorted(index[: -len(SUFFIX)] for index in indexes if index[: -len(SUFFIX)] in with_data)


def _latest(place: Place) -> str:
    """The prefix of the latest checkpoint in a folder; only its last part is used."""
    prefixes = _prefixes(place.names)
    if _STATE not in place.names:
        if len(prefixes) == 1:
            return prefixes[0]
        some = ", ".join(prefixes[:5])
        raise UsageError(f"{place.path} has {len(prefixes)} checkpoints: open one of {some}, ...")
    path = place.beside(_STATE)
    named = re.split(r"[/\\]", _named_in(path))[-1]
    if named in ("", ".", "..") or not named.isprintable():
        raise UntrustedError(f"{path} names {named!r:.80} for the latest checkpoint")
    if named not in prefixes:
        some = ", ".join(prefixes[:5])
        raise DamagedError(
            f"{path} says that the latest checkpoint is {named!r:.200}, which is not there: "
            f"put it back, or open one of {some} by its name"
        )
    return named


def _named_in(path: str) -> str:
    """What the text in a folder calls the latest checkpoint."""
    source = open_beside(path)
    try:
        text = bytes(read_exactly(source, 0, min(source.size, _MAX_STATE_BYTES)))
    finally:
        source.close()
    found = _LATEST.search(text)
    if found is None:
        raise DamagedError(f"{path} does not say which checkpoint is the latest")
    try:
        return _ESCAPE.sub(_unescape, found[1]).decode()
    except ValueError as error:
        raise DamagedError(f"{path} has a name in it that is no text: {error}") from None


# Text protos have C's escapes; those of bytes outside of ASCII are octal.
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|.)")


def _unescape(found: re.Match[bytes]) -> bytes:
    code = found[1]
    return bytes([int(code, 8) & 0xFF]) if code[:1].isdigit() else code
