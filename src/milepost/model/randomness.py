"""Building a model draws its initial values; the program's random numbers go on as before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from milepost.frameworks.random import RememberedRandomness


@contextlib.contextmanager
def unchanged_random_state() -> Iterator[None]:
    """Put all global random generators back where they were, whatever happens inside."""
    before = RememberedRandomness()
    before.remember()
    try:
        yield
    finally:
        try:
            before.recall()
        except BaseException:  # interrupted
            before.recall()
            raise
