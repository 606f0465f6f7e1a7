"""Which leaves a name or a glob stands for."""

from __future__ import annotations

import fnmatch
import re

from milepost.errors import LeafNotFoundError
from milepost.snapshot import Snapshot


def matching(snapshot: Snapshot, pattern: str) -> list[str]:
    """The leaf of that name, or those below it, or those whose whole name the glob matches.

    A `*` matches slashes, too. A name that is there is not taken for a glob: `params['w']`.

    Raises:
        LeafNotFoundError: there is none; the message has the nearest names.
    """
    below = (pattern.rstrip("/") + "/", pattern + ".")  # a dot, as in PyTorch's names
    found = [name for name in snapshot if name == pattern or name.startswith(below)]
    if not found:
        glob = re.compile(fnmatch.translate(pattern))
        found = [name for name in snapshot if glob.match(name)]
    if not found:
        literal = max(re.split(r"[*?]|\[[^]]*\]", pattern), key=len)
        near = [name for name in snapshot if literal in name][:3]
        if near and literal not in ("", pattern):
            has = ", ".join(map(repr, near))
            raise LeafNotFoundError(f"{snapshot.name} has no leaf {pattern!r}; it has {has}")
        snapshot.record(pattern)  # raises, with the nearest names
    return found
