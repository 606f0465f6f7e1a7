"""Open and verify anything on disk, whatever it is, and compact stores; without any framework."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias

from milepost import formats
from milepost.errors import UsageError
from milepost.snapshot import Damage, Snapshot
from milepost.storage.local import LocalStorage
from milepost.store import CompactReport, Store, compact_store, verify_store

Path: TypeAlias = str | os.PathLike[str]


def open(path: Path) -> Snapshot | Store:
    """Open a store's folder, or a file or folder of any format that milepost reads.

    The format is told by the content, never by the name. A TensorFlow checkpoint may be called
    by its prefix, as TensorFlow does.

    Returns a `Store` (`store.steps`, `store[7]`, `store.latest`), or a `Snapshot`, a lazy
    mapping from the names of leaves to arrays and plain values. Nothing of it is run, no
    framework is needed, and arrays are read only when they are asked for.

    Raises:
        PathNotFoundError: there is nothing at the path.
        NotAStoreError, UnknownFormatError: it is something else.
        DamagedError, VersionError: it is not whole, or is newer.
        UntrustedError: it asks for something that opening a file must never do.
        MissingPackageError: its format needs a package that is not installed.
    """
    path = os.path.abspath(os.fspath(path))
    if os.path.isdir(path):
        storage = LocalStorage(path)
        if Store.is_there(storage) or formats.recognised(formats.place_at(path)) is None:
            return Store.open(storage)
    return formats.open_path(path)


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


def compact(
    path: Path,
    *,
    threads: int | None = None,
    told: Callable[[int, int], None] = lambda step, left: None,
) -> CompactReport:
    """Make a store smaller: encode the older checkpoints against their neighbours, losslessly.

    Every step stays, and comes back to the last bit. The newest is left as it is, and so is
    what older ones share with it. Saves and restores may go on meanwhile, in any process, and a
    crash loses nothing: called again, it goes on. What is compacted already costs little to see.

    Arguments:
        path: a store's folder.
        threads: how many encode; as many as there are cores, up to 4, if not given.
        told: called after each step that was compacted, with how many are left to see.

    Raises:
        PathNotFoundError, NotAStoreError: there is no store.
        DamagedError: data of a step is not what was saved; this step and the later ones are
            as they were.
        StorageError: the storage refused; every step is as it was, or compacted.
    """
    store = Store.open(LocalStorage(os.path.abspath(os.fspath(path))))
    if threads is None:
        threads = min(4, os.cpu_count() or 1)
    if threads < 1:
        raise UsageError(f"expected 1 thread or more, found {threads}")
    return compact_store(store, threads, told)
