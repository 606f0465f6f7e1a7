"""Which leaves a name or a glob stands for."""

from __future__ import annotations

import fnmatch
import re

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
        snapshot.record(pattern)  # raises, with the nearest names
    return found
