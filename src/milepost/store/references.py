"""What the manifests of a store refer to, kept up to date without reading them all again.

Whoever removes data has to know what every manifest refers to, while nobody can commit another:
under the exclusive lock, for which savers wait. In a store of thousands of checkpoints, reading
them takes seconds. So they are read before the lock is taken, and under it only those that are
new, or that another process has replaced since:

    references.update()
    with storage.lock(exclusive=True):
        references.update()
        ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from milepost.errors import DamagedError, StepNotFoundError, VersionError
from milepost.storage.base import Stamp, Storage
from milepost.store import layout
from milepost.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class _Read:
    """What a manifest said when it was read, or why it could not be.

    `stamp` was taken before, so if the manifest was replaced in between, it no longer fits.
    """

    stamp: Stamp
    packs: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: DamagedError | VersionError | None = None


class References:
    """The packs and the metrics of all checkpoints, as of the last `update`.

    Arguments:
        storage: where the store lies.
        read: reads the manifest of a step anew.
    """

    def __init__(self, storage: Storage, read: Callable[[int], Manifest]) -> None:
        self._storage = storage
        self._read_manifest = read
        self._read: dict[int, _Read] = {}  # by step, ascending
        self._mark: str | None = None  # of the folder, when it was looked through

    def update_if_marked(self) -> None:
        """As `update`, but not one manifest is looked at if the folder has its mark still.

        A manifest that was changed in its place, which nothing of milepost does, is missed: so
        this is not enough for whoever removes data.
        """
        if self._mark is None or self._storage.marked(layout.CHECKPOINTS) != self._mark:
            self.update()

    def update(self) -> None:
        """Read the manifests that are new or were replaced, and forget those that are gone."""
        mark = self._storage.marked(layout.CHECKPOINTS)
        found: dict[int, _Read] = {}
        for file, stamp in self._storage.stamps(layout.CHECKPOINTS).items():
            step = layout.manifest_step(file)
            if step is None:
                continue
            known = self._read.get(step)
            if known is None or known.stamp != stamp or known.error is not None:
                known = self._read_one(step, stamp)
            if known is not None:
                found[step] = known
        self._read = dict(sorted(found.items()))
        self._mark = mark if self.unreadable is None else None

    def committed(self, new: Manifest, since: str | None, mark: str | None) -> None:
        """Add what was committed just now, as the only change from one mark to another."""
        if since is None or mark is None or self._mark != since:
            return
        stamp = self._storage.stamp(layout.manifest_name(new.step))
        if self._storage.marked(layout.CHECKPOINTS) != mark:
            return  # the stamp may be of another that took its place
        read = {**self._read, new.step: _read_of(new, stamp)}
        highest = next(reversed(self._read), -1)
        self._read = read if new.step > highest else dict(sorted(read.items()))
        self._mark = mark

    def _read_one(self, step: int, stamp: Stamp) -> _Read | None:
        try:
            manifest = self._read_manifest(step)
        except StepNotFoundError:
            return None  # another process has removed it meanwhile
        except (DamagedError, VersionError) as error:
            return _Read(stamp, error=error)
        return _read_of(manifest, stamp)

    def forget(self, steps: Iterable[int]) -> None:
        """These checkpoints were removed just now, by the caller."""
        for step in steps:
            self._read.pop(step, None)

    @property
    def steps(self) -> list[int]:
        """All steps, ascending; those too whose manifest cannot be read."""
        return list(self._read)

    @property
    def packs(self) -> set[str]:
        """The names of all packs that a manifest refers to, as far as these can be read."""
        return {pack for read in self._read.values() for pack in read.packs}

    @property
    def unreadable(self) -> DamagedError | VersionError | None:
        """Why the first manifest that cannot be read cannot; None if all can.

        While there is one, what it refers to is unknown, and no data may be removed.
        """
        return next((read.error for read in self._read.values() if read.error is not None), None)

    def all_metrics(self) -> dict[int, Mapping[str, float]]:
        """The metrics of every step, by step, ascending.

        Raises:
            DamagedError, VersionError: a manifest cannot be read.
        """
        if self.unreadable is not None:
            raise self.unreadable
        return {step: read.metrics for step, read in self._read.items()}


def _read_of(manifest: Manifest, stamp: Stamp) -> _Read:
    return _Read(stamp, tuple(pack.name for pack in manifest.packs), dict(manifest.metrics))
