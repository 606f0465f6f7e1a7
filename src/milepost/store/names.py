"""Which checkpoints there are: what a store knows of the names in `checkpoints/`.

To find the newest among 10,000 names by listing them takes milliseconds. So what was listed is
remembered together with the folder's mark (`storage/marks.py`), and holds for as long as the
folder has it. A save that was the only change to the folder is added to what is known. The
newest steps are noted in a file too, `newest.json`, for the next process; it counts only beside
that same mark, and whatever else is in it is as good as no file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from milepost import sealed
from milepost.errors import MilepostError, PathNotFoundError, StorageError
from milepost.source import read_exactly
from milepost.storage.base import Storage
from milepost.store import layout

# How many steps are noted, and how long that may be at most.
_NOTED = 100
_NOTE_BYTES = 16384


@dataclass(frozen=True, slots=True)
class _Known:
    """The newest steps, ascending, for as long as the folder has this mark; or all of them."""

    mark: str
    steps: Sequence[int]
    complete: bool

    def and_step(self, step: int, mark: str) -> _Known:
        if self.steps and step > self.steps[-1]:
            return _Known(mark, [*self.steps, step], self.complete)
        if not self.complete and step < self.steps[0]:
            return _Known(mark, self.steps, complete=False)  # how many are between is not known
        return _Known(mark, sorted({*self.steps, step}), self.complete)


class Names:
    """The steps of the checkpoints in a storage. What is remembered never says what is not so."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: _Known | None = None  # replaced as a whole, as threads may share it

    @property
    def mark(self) -> str | None:
        """The mark as of which the names are known; None if they are not."""
        return None if self._known is None else self._known.mark

    def watch(self) -> None:
        """Let what is found next be remembered. For writers: it gives the folder a mark."""
        self._storage.mark(layout.CHECKPOINTS)

    def forget(self) -> None:
        """Look anew: what was remembered has turned out to be wrong."""
        self._known = None

    def has(self, step: int) -> bool:
        """Whether there is this step, by its name alone."""
        try:
            self._storage.open(layout.manifest_name(step)).close()
        except PathNotFoundError:
            return False
        except StorageError:
            pass  # it is there, though it cannot be read
        return True

    def all(self) -> list[int]:
        """All steps, ascending."""
        mark = self._storage.marked(layout.CHECKPOINTS)
        known = self._known
        if known is None or known.mark != mark or not known.complete:
            steps = _steps(self._storage.list(layout.CHECKPOINTS))
            if mark is None:
                return steps
            # The mark is from before the list: if it is there later, so are these names.
            known = self._known = _Known(mark, steps, complete=True)
        return list(known.steps)

    def newest(self) -> int | None:
        """The highest step; None if there is none."""
        mark = self._storage.marked(layout.CHECKPOINTS)
        known = self._known_at(mark)
        if known is not None:
            return known.steps[-1] if known.steps else None
        if mark is None:
            last = self._storage.last(layout.CHECKPOINTS)
            step = None if last is None else layout.manifest_step(last)
            if last is None or step is not None:
                return step
        return max(self.all(), default=None)

    def descending(self) -> Iterator[int]:
        """The steps, newest first: to take a few costs less than `all`."""
        known = self._known_at(self._storage.marked(layout.CHECKPOINTS))
        if known is not None:
            yield from reversed(known.steps)
            if known.complete:
                return
        lowest = known.steps[0] if known is not None else layout.MAX_STEP + 1
        for file in reversed(self._storage.list(layout.CHECKPOINTS)):
            step = layout.manifest_step(file)
            if step is not None and step < lowest:
                yield step

    def committed(self, step: int, since: str | None, mark: str | None) -> None:
        """Add a step that was committed just now, as the only change from one mark to another."""
        known = self._known
        if known is None or mark is None or known.mark != since:
            return  # the mark that is remembered is not there any more
        self._known = known.and_step(step, mark)
        self.note()

    def note(self) -> None:
        """Write down what is known, for other processes."""
        known = self._known
        if known is not None and known.steps:
            body = {"mark": known.mark, "steps": list(known.steps[-_NOTED:])}
            self._storage.note(layout.NEWEST, sealed.seal("newest", body))

    def _known_at(self, mark: str | None) -> _Known | None:
        """What is known for certain, if the folder has this mark."""
        if mark is None:
            return None
        known = self._known
        if known is None or known.mark != mark:
            known = self._noted(mark)
            if known is not None:
                self._known = known
        return known

    def _noted(self, mark: str) -> _Known | None:
        """What another process has noted, if the folder has had this mark then."""
        try:
            source = self._storage.open(layout.NEWEST)
            try:
                if source.size > _NOTE_BYTES:
                    return None
                data = bytes(read_exactly(source, 0, source.size))
            finally:
                source.close()
            body = sealed.unseal("newest", data, layout.NEWEST)
        except MilepostError:
            return None
        steps = body.get("steps")
        if body.get("mark") == mark and _is_ascending(steps) and self.has(steps[-1]):
            return _Known(mark, steps, complete=False)
        return None


def _steps(files: Sequence[str]) -> list[int]:
    found = map(layout.manifest_step, files)
    return [step for step in found if step is not None]  # names sort as numbers


def _is_ascending(steps: object) -> TypeGuard[list[int]]:
    """Whether a value of JSON is a list of steps, the lowest first."""
    if not isinstance(steps, list) or not steps or not all(type(step) is int for step in steps):
        return False
    in_order = all(low < high for low, high in itertools.pairwise(steps))
    return in_order and steps[0] >= 0 and steps[-1] <= layout.MAX_STEP
