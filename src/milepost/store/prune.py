"""Removing checkpoints, and what dead writers left behind.

Only while holding the store's exclusive lock, so that no save is under way that might
refer to a pack that goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from milepost.errors import DamagedError, UsageError, VersionError
from milepost.store import layout
from milepost.store.store import Store


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What was removed. `unreadable` names a manifest that kept data from being removed."""

    steps: tuple[int, ...]
    packs: tuple[str, ...]
    unreadable: str | None = None


def prune(store: Store, keep: Iterable[int]) -> PruneReport:
    """Remove every checkpoint that is not in `keep`, then the data that none refers to.

    Names go first, durably, and data after, so that a crash in between loses nothing that
    is still named.

    Raises:
        UsageError: the newest checkpoint is not among those to keep.
    """
    wanted = set(keep)
    with store.storage.lock(exclusive=True):
        steps = store.steps
        if steps and steps[-1] not in wanted:
            raise UsageError(
                f"{store.name}: the newest checkpoint, step {steps[-1]}, is never removed"
            )
        gone = tuple(step for step in steps if step not in wanted)
        store.storage.delete(layout.manifest_name(step) for step in gone)
        for step in gone:
            store.forget(step)
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


def _remove_unreferenced(store: Store, files: list[str]) -> tuple[tuple[str, ...], str | None]:
    """Delete those of the packs that no manifest refers to.

    While one manifest cannot be read, what it refers to is unknown, and all data stays.
    """
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
