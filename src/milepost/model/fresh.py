"""Putting values into a model that was built for them, and that nobody has yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from milepost.checkpoint.late import LateLeaves, late_leaves
from milepost.checkpoint.restore import Restore
from milepost.frameworks.base import Placed


class FreshRestore(Restore):
    """A restore that reads every leaf once, checking it on its way into the model.

    Whoever restores into a live model reads all leaves once before, so that damage is found while
    the model is still whole. Here a model that is half filled is thrown away.
    """

    def run(self) -> dict[str, Any]:
        """Do what the plan says, which has to be exact; returns the objects.

        Raises:
            DamagedError: a leaf's bytes are not what was saved. The objects are of no use.
        """
        found = late_leaves(self.plan.entries, self._target, self._snapshot)
        large = _Once(self._snapshot, found._sources)
        return self._apply(self._read(large), large)


class _Once(LateLeaves):
    def read(self, placed: Sequence[Placed]) -> None:
        self._snapshot.read_into(
            (self._sources[one.name], one.into) for one in placed if one.into is not None
        )
        for group in self._groups([one for one in placed if one.into is None]):
            values = self._snapshot.read_all([self._sources[one.name] for one in group])
            for one, value in zip(group, values, strict=True):
                one.change(np.asarray(value))
