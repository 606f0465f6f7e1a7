"""Removing checkpoints, and what dead writers left behind.

Only while holding the store's exclusive lock, so that no save is under way that might
refer to a pack that goes. Savers wait for it, so manifests are read before (`references.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

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
    store.references.update()
    with store.storage.lock(exclusive=True):
        store.forget()
        store.references.update()
        steps = store.references.steps
        wanted = {*keep(_Still(store, steps, updated=True)), *steps[-1:]}
        gone = tuple(step for step in steps if step not in wanted)
        store.storage.delete(layout.manifest_name(step) for step in gone)
        store.references.forget(gone)
        packs, unreadable = _remove_unreferenced(store, store.storage.list(layout.DATA))
        store.remember()
    return PruneReport(gone, packs, unreadable)


def prune_if_any(store: Store, keep: Callable[[Store], Iterable[int]]) -> PruneReport:
    """As `prune`, unless every checkpoint is to be kept: then the lock is not taken.

    To see that, what is known is enough, for as long as the folder has the mark with which it
    was learnt. `prune` looks at every manifest.
    """
    steps = store.steps
    if {*keep(_Still(store, steps)), *steps[-1:]}.issuperset(steps):
        return PruneReport((), ())
    return prune(store, keep)


class _Still(Store):
    """A store as it is now, so that not each policy lists it again."""

    def __init__(self, store: Store, steps: list[int], *, updated: bool = False) -> None:
        super().__init__(store.storage)
        self.references = store.references
        self._steps, self._updated = steps, updated

    @property
    def steps(self) -> list[int]:
        return self._steps

    def all_metrics(self) -> dict[int, Mapping[str, float]]:
        if not self._updated:
            self.references.update_if_marked()
            self._updated = True
        return self.references.all_metrics()


def remove_leftovers(store: Store) -> None:
    """Remove what killed writers left, unless another writer is at work."""

    def orphans() -> list[str]:
        # A pack whose step is committed belongs to it, or was a loser's, which `prune` finds.
        known = {None, *store.steps}
        files = store.storage.list(layout.DATA)
        return [file for file in files if layout.pack_step(file) not in known]

    _remove_if_alone(store, orphans, unfinished=True)


def remove_replaced(store: Store, step: int) -> None:
    """Remove the data of a checkpoint that another of the same step has replaced.

    Not if another writer is at work: it may be about to refer to that data.
    """

    def replaced() -> list[str]:
        files = store.storage.list(layout.DATA)
        return [file for file in files if layout.pack_step(file) == step]

    _remove_if_alone(store, replaced)


def _remove_if_alone(
    store: Store, candidates: Callable[[], list[str]], *, unfinished: bool = False
) -> None:
    """Take the lock, and remove those of some packs that nothing refers to, if there are any."""
    if candidates():
        store.references.update()
    with store.storage.lock(exclusive=True, wait=False) as alone:
        if not alone:
            return
        if unfinished:
            store.storage.remove_unfinished()
        files = candidates()
        if files:
            store.references.update()
            _remove_unreferenced(store, files)


def remove_unreferenced(store: Store) -> None:
    """Remove every pack that no manifest refers to, once no writer is at work."""
    store.references.update()
    with store.storage.lock(exclusive=True):
        store.references.update()
        _remove_unreferenced(store, store.storage.list(layout.DATA))


def _remove_unreferenced(store: Store, files: list[str]) -> tuple[tuple[str, ...], str | None]:
    """Delete those of the packs that no manifest refers to, by `references`, which are up to date.

    While one manifest cannot be read, what it refers to is unknown, and all data stays.
    """
    references = store.references
    if references.unreadable is not None:
        return (), str(references.unreadable)
    referenced = references.packs
    names = [f"{layout.DATA}/{file}" for file in files if layout.pack_step(file) is not None]
    gone = tuple(name for name in names if name not in referenced)
    store.storage.delete(gone)
    return gone, None
