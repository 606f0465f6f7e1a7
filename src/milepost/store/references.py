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
        self._read: dict[int, _Read] = {}

    def update(self) -> None:
        """Read the manifests that are new or were replaced, and forget those that are gone."""
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
        self._read = found

    def _read_one(self, step: int, stamp: Stamp) -> _Read | None:
        try:
            manifest = self._read_manifest(step)
        except StepNotFoundError:
            return None  # another process has removed it meanwhile
        except (DamagedError, VersionError) as error:
            return _Read(stamp, error=error)
        packs = tuple(pack.name for pack in manifest.packs)
        return _Read(stamp, packs, dict(manifest.metrics))

    def forget(self, steps: Iterable[int]) -> None:
        """These checkpoints were removed just now, by the caller."""
        for step in steps:
            self._read.pop(step, None)

    @property
    def steps(self) -> list[int]:
        """All steps, ascending; those too whose manifest cannot be read."""
        return sorted(self._read)

    @property
    def packs(self) -> set[str]:
        """The names of all packs that a manifest refers to, as far as these can be read."""
        return {pack for read in self._read.values() for pack in read.packs}

    @property
    def unreadable(self) -> DamagedError | VersionError | None:
        """Why the first manifest that cannot be read cannot; None if all can.

        While there is one, what it refers to is unknown, and no data may be removed.
        """
        errors = (self._read[step].error for step in self.steps)
        return next((error for error in errors if error is not None), None)

    def all_metrics(self) -> dict[int, Mapping[str, float]]:
        """The metrics of every step, by step, ascending.

        Raises:
            DamagedError, VersionError: a manifest cannot be read.
        """
        if self.unreadable is not None:
            raise self.unreadable
        return {step: self._read[step].metrics for step in self.steps}
