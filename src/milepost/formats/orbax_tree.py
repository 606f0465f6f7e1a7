"""One tree of an Orbax checkpoint: its arrays, in a database or in a folder each, and values."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from milepost import dtypes
from milepost.encodings import ocdbt
from milepost.errors import DamagedError, MilepostError
from milepost.formats import zarr_metadata
from milepost.formats.folder import Folder, parse_json
from milepost.formats.names import Unique, leaf_name
from milepost.formats.zarr_array import Blob, Chunks, Recent, ZarrArray
from milepost.limits import shown
from milepost.record import ForeignArray, PlainRecord, Record
from milepost.storage.local import translated

_TREE, _STRINGS, _PROCESS = "_METADATA", "_strings.json", "ocdbt.process_"
_MAX_METADATA = 1 << 20
_MAX_FILES = 1_000_000
# Numbers of Python's are arrays without axes. To give them back as numbers they are read at
# once, which takes a moment each: of the thousands that no real tree has, only the first.
_MOST_SCALARS = 2000
_EMPTY_NODES = ("Dict", "List", "Tuple", "NamedTuple", "Empty")


def is_tree(names: Collection[str]) -> bool:
    """Whether a folder with these names in it is a tree."""
    return (
        _TREE in names
        or ocdbt.MANIFEST in names
        or any(name.startswith(_PROCESS) for name in names)
    )


def read(folder: Folder) -> dict[str, Record]:
    """The leaves of a tree.

    Raises:
        DamagedError: it is not valid.
        UntrustedError: it names a file outside of its folder.
        VersionError: it has arrays of a kind that is unknown here.
    """
    tree = _Tree(folder)
    if folder.has(_TREE):
        return tree.records()
    return tree.records_without_metadata()


@dataclass(frozen=True, slots=True)
class _InMemory:
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


@dataclass(frozen=True, slots=True)
class _InFile:
    folder: Folder
    name: str
    offset: int
    size: int

    def read(self, offset: int, length: int) -> bytes:
        return self.folder.read(self.name, self.offset + offset, length)


@dataclass(frozen=True, slots=True)
class _Files:
    """Values that are files, each called by its key."""

    folder: Folder

    def find(self, key: str) -> Blob | None:
        path = self.folder.path_of(key)
        return _InFile(self.folder, key, 0, os.stat(path).st_size) if os.path.isfile(path) else None

    def keys_of_metadata(self) -> Iterable[str]:
        for name in self.folder.names():
            for file in zarr_metadata.NAMES.values():
                if file in self.folder.names(name):
                    yield f"{name}/{file}"


class _Database:
    """Values in a database, or in those that several processes have left unmerged."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._values: dict[str, tuple[str, ocdbt.Value]] = {}
        for base in [""] if folder.has(ocdbt.MANIFEST) else _process_folders(folder):
            name = base + ocdbt.MANIFEST
            manifest = folder.read_all(name, _MAX_METADATA)
            tree = ocdbt.read_tree(self._reader(base), manifest, folder.path_of(name))
            self._values |= {key: (base, value) for key, value in tree.items()}

    def _reader(self, base: str) -> Callable[[str, int, int], bytes]:
        return lambda path, offset, length: self._folder.read(base + path, offset, length)

    def find(self, key: str) -> Blob | None:
        base, value = self._values.get(key, ("", None))
        if value is None:
            return None
        if isinstance(value, bytes):
            return _InMemory(value)
        return _InFile(self._folder, base + value.file, value.offset, value.length)

    def keys_of_metadata(self) -> Iterable[str]:
        return self._values


class _Tree:
    """What it takes to make records of one tree."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        in_database = is_tree(set(folder.names()) - {_TREE})
        self._store = _Database(folder) if in_database else _Files(folder)
        self._stored = _size_of_files(folder)
        self._recent = Recent()
        self._scalars = 0

    def records(self) -> dict[str, Record]:
        """The leaves that the tree's metadata tells of."""
        metadata = self._folder.read_json(_TREE)
        strings = self._folder.read_json(_STRINGS) if self._folder.has(_STRINGS) else {}
        unique, records = Unique(), dict[str, Record]()
        try:
            sparse = not metadata.get("store_array_data_equal_to_fill_value", False)
            for leaf in metadata["tree_metadata"].values():
                keys = [_key(part["key"]) for part in leaf["key_metadata"]]
                kind = leaf["value_metadata"]["value_type"]
                if kind in _EMPTY_NODES:
                    continue
                name = leaf_name("/".join(keys).encode(errors="backslashreplace"), str(self))
                records[unique(name)] = self._record(".".join(keys), kind, strings, sparse)
        except MilepostError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise DamagedError(f"{self} describes no tree: {problem:.200}") from None
        return records

    def records_without_metadata(self) -> dict[str, Record]:
        """Every array there is, by the name that it has in storage: old trees have no more."""
        suffixes = tuple(f"/{file}" for file in zarr_metadata.NAMES.values())
        keys = self._store.keys_of_metadata()
        found = [key.rsplit("/", 1)[0] for key in keys if key.endswith(suffixes)]
        unique = Unique()
        return {
            unique(leaf_name(name.encode(errors="backslashreplace"), str(self))): self._array(
                name, sparse=True
            )
            for name in found
        }

    def __str__(self) -> str:
        return os.path.join(self._folder.path, _TREE)

    def _record(self, param: str, kind: Any, strings: Any, sparse: bool) -> Record:
        if kind == "None":
            return PlainRecord(None)
        if kind == "string":
            text = strings[param]
            if not isinstance(text, str):
                raise TypeError(f"{shown(text)} is no text")
            return PlainRecord(text)
        array = self._array(param, sparse=sparse)
        if kind != "scalar" or array.shape or self._scalars >= _MOST_SCALARS:
            return array
        self._scalars += 1
        return PlainRecord(array.read(()).item())

    def _array(self, param: str, *, sparse: bool) -> ForeignArray:
        layout = self._layout(param)
        chunks: Chunks = self._store
        array = ZarrArray(layout, chunks, f"{param}/", self._stored, sparse, self._recent)
        array.check()
        dtype = dtypes.dtype_name(layout.dtype)
        return ForeignArray(dtype, layout.shape, (), array.read)

    def _layout(self, param: str) -> zarr_metadata.Layout:
        name = f"{self._folder}/{param}"
        for version, file in zarr_metadata.NAMES.items():
            blob = self._store.find(f"{param}/{file}")
            if blob is None:
                continue
            if blob.size > _MAX_METADATA:
                raise DamagedError(f"{name}/{file} is too large: {blob.size:,} bytes")
            return zarr_metadata.parse(version, parse_json(blob.read(0, blob.size), name), name)
        raise DamagedError(f"{self}: the array {param!r:.80} is not in the checkpoint")


def _key(key: Any) -> str:
    if not isinstance(key, str | int):
        raise TypeError(f"{shown(key)} is no key")
    return str(key)


def _process_folders(folder: Folder) -> list[str]:
    names = [name for name in folder.names() if name.startswith(_PROCESS)]
    return [f"{name}/" for name in names if folder.names(name)]


def _size_of_files(folder: Folder) -> int:
    """How many bytes all files of a folder have. Links are not followed."""
    total = count = 0
    waiting = [folder.path]
    while waiting:
        path = waiting.pop()
        with translated(path, "list"), os.scandir(path) as entries:
            for entry in entries:
                count += 1
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
        if count > _MAX_FILES:
            raise DamagedError(f"{folder} has over {_MAX_FILES:,} files, too many for a tree")
    return total
