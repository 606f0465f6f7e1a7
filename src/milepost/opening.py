"""Open and verify anything on disk, whatever it is, without any framework."""

from __future__ import annotations

import os
from typing import TypeAlias

from milepost.errors import PathNotFoundError
from milepost.formats import open_source, sharded
from milepost.snapshot import Damage, Snapshot, closing_on_error
from milepost.storage.local import LocalStorage, open_file
from milepost.store import Store, verify_store

Path: TypeAlias = str | os.PathLike[str]


def open(path: Path) -> Snapshot | Store:
    """Open a store's folder, a file of any format that milepost reads, or a model's folder.

    A model's folder has the Hugging Face Hub's layout: one file, or shards and their index.

    Returns a `Store` (`store.steps`, `store[7]`, `store.latest`), or a `Snapshot`, a lazy
    mapping from the names of leaves to arrays and plain values. Nothing of it is run, no
    framework is needed, and arrays are read only when they are asked for.

    Raises:
        PathNotFoundError: there is nothing at the path.
        NotAStoreError, UnknownFormatError: it is something else.
        DamagedError, VersionError: it cannot be trusted, or is newer.
    """
    path = os.path.abspath(os.fspath(path))
    if not os.path.lexists(path):
        raise PathNotFoundError(f"{path} does not exist")
    if os.path.isdir(path):
        if sharded.is_folder(path):
            return sharded.open_folder(path)
        return Store.open(LocalStorage(path))
    if path.endswith(sharded.INDEX_SUFFIX):
        return sharded.open_index(path)
    source = open_file(path)
    with closing_on_error([source]):
        return open_source(source)


def verify(path: Path, step: int | str | None = None) -> list[Damage]:
    """Read everything at a path and compare it with its digests.

    Arguments:
        path: a store, or a file.
        step: only this step of a store.

    Returns what is wrong; nothing, if all is as it was saved. A file that milepost did not
    write has no digests: then only its structure is checked.

    Raises:
        PathNotFoundError, NotAStoreError, UnknownFormatError: there is nothing to verify.
        DamagedError: it is damaged so that nothing more can be told.
    """
    opened = open(path)
    if isinstance(opened, Store):
        return list(verify_store(opened, None if step is None else [opened.resolve(step)]))
    with opened:
        return list(opened.damage())
