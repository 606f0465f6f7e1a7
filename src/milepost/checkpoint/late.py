"""The leaves that a restore reads last: straight into live memory, or a few at a time.

Into live objects they are read twice. First they are only checked, while nothing has changed
yet: so damage is found in time, and no second copy of the state is needed to be able to go back.
Objects that are thrown away if anything fails need no more than one reading, which checks too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from milepost.checkpoint.plan import PlanEntry, Status
from milepost.dtypes import Array
from milepost.frameworks.base import Placed
from milepost.record import ArrayRecord
from milepost.snapshot import Snapshot
from milepost.state import State

# Smaller leaves are read once, and early: there can be very many, and each costs time.
SMALL_BYTES = 1 << 14
# So much is read at a time for objects that want their values handed to them: into live ones,
# whose old values are still there, and into fresh ones.
_GROUP_BYTES, _FRESH_GROUP_BYTES = 1 << 24, 1 << 27


class LateLeaves:
    """Leaves of a snapshot under their live names. Reading one by its name is always possible."""

    def __init__(self, snapshot: Snapshot, sources: Mapping[str, str]) -> None:
        self._snapshot, self._sources = snapshot, sources
        self._checked = False

    def __contains__(self, name: object) -> bool:
        return name in self._sources

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __getitem__(self, name: str) -> Array:
        return np.asarray(self._snapshot.read(self._sources[name]))

    def check(self) -> None:
        """Raises DamagedError if the bytes of one are not what was saved."""
        self._snapshot.check(self._sources.values())
        self._checked = True

    def read(self, placed: Sequence[Placed]) -> None:
        """Let the live objects have their values.

        Raises:
            DamagedError, StorageError: one is not what was saved; or, if all were checked, what
                was there then no longer is. Some objects have their values.
        """
        try:
            self._snapshot.read_into(
                (self._sources[one.name], one.into) for one in placed if one.into is not None
            )
            for group in self._groups([one for one in placed if one.into is None]):
                values = self._snapshot.read_all([self._sources[one.name] for one in group])
                for one, value in zip(group, values, strict=True):
                    one.change(np.asarray(value))
        except Exception as error:
            if self._checked:
                error.add_note(
                    f"(while the values of {self._snapshot.name} were put in place, after all had "
                    "been checked: some objects have them now, others have not; restore again)"
                )
            raise

    def _groups(self, placed: Sequence[Placed]) -> Iterator[list[Placed]]:
        group: list[Placed] = []
        size, most = 0, _GROUP_BYTES if self._checked else _FRESH_GROUP_BYTES
        for one in placed:
            record = self._snapshot.record(self._sources[one.name])
            nbytes = record.nbytes if isinstance(record, ArrayRecord) else 0
            if group and size + nbytes > most:
                yield group
                group, size = [], 0
            group.append(one)
            size += nbytes
        if group:
            yield group


def late_leaves(entries: Sequence[PlanEntry], target: State, snapshot: Snapshot) -> LateLeaves:
    """Those that the live objects take late, and that can be checked before."""
    return LateLeaves(
        snapshot,
        {
            entry.name: entry.source
            for entry in entries
            if entry.source is not None
            and entry.status is Status.EXACT
            and entry.name in target.late
            and _is_worth_it(snapshot, entry.source)
            and entry.expected == entry.found
        },
    )


def _is_worth_it(snapshot: Snapshot, name: str) -> bool:
    record = snapshot.record(name)
    is_large = isinstance(record, ArrayRecord) and record.nbytes >= SMALL_BYTES
    return is_large and snapshot.is_checkable(name)
