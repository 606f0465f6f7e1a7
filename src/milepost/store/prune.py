"""Removing checkpoints, and what dead writers left behind.

Only while holding the store's exclusive lock, so that no save is under way that might
refer to a pack that goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from milepost.errors import DamagedError, VersionError
from milepost.store import layout
from milepost.store.store import Store


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What was removed. `unreadable` names a manifest that kept data from being removed."""

    steps: tuple[int, ...]
    packs: tuple[str, ...]
    unreadable: str | None = None


def prune(store: Store, keep: Callable[[Store], Iterable[int]]) -> PruneReport:
    """Remove every checkpoint that is not to be kept, then the data that none refers to.

    `keep` is called under the lock, so that what it sees is what is there when things are
    removed. The newest checkpoint is kept whatever it says. Names go first, durably, and data
    after, so that a crash in between loses nothing that is still named.
    """
    with store.storage.lock(exclusive=True):
        store.forget()
        steps = store.steps
        wanted = {*keep(store), *steps[-1:]}
        gone = tuple(step for step in steps if step not in wanted)
        store.storage.delete(layout.manifest_name(step) for step in gone)
        packs, unreadable = _remove_unreferenced(store, store.storage.list(layout.DATA))
    return PruneReport(gone, packs, unreadable)


def remove_leftovers(store: Store) -> None:
    """Remove what killed writers left. The caller holds the exclusive lock."""
    store.storage.remove_unfinished()
    steps = set(store.steps)
    # A pack whose step is committed belongs to it, or was a loser's, which `prune` finds.
    orphans = [
        file for file in store.storage.list(layout.DATA) if layout.pack_step(file) not in steps
    ]
    if orphans:
        _remove_unreferenced(store, orphans)


def remove_replaced(store: Store, step: int) -> None:
    """Remove the data of a checkpoint that another of the same step has replaced."""
    files = [file for file in store.storage.list(layout.DATA) if layout.pack_step(file) == step]
    _remove_unreferenced(store, files)


def remove_unreferenced(store: Store) -> None:
    """Remove every pack that no manifest refers to. The caller holds the exclusive lock."""
    _remove_unreferenced(store, store.storage.list(layout.DATA))


def _remove_unreferenced(store: Store, files: list[str]) -> tuple[tuple[str, ...], str | None]:
    """Delete those of the packs that no manifest refers to.

    While one manifest cannot be read, what it refers to is unknown, and all data stays. The
    manifests are read anew: another process may have overwritten one that was read before.
    """
    store.forget()
    referenced: set[str] = set()
    for step in store.steps:
        try:
            referenced.update(pack.name for pack in store.manifest(step).packs)
        except (DamagedError, VersionError) as error:
            return (), str(error)
    names = [f"{layout.DATA}/{file}" for file in files if layout.pack_step(file) is not None]
    gone = tuple(name for name in names if name not in referenced)
    store.storage.delete(gone)
    return gone, None
