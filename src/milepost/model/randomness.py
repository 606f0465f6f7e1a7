"""Building a model draws its initial values; the program's random numbers go on as before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from milepost.frameworks.random import RememberedRandomness
from milepost.undoing import undoing


@contextlib.contextmanager
def unchanged_random_state() -> Iterator[None]:
    """Put all global random generators back where they were, whatever happens inside."""
    before = RememberedRandomness()
    before.remember()
    with undoing(before.recall):
        yield
