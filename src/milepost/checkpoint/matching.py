"""Which leaf of a file that milepost did not write is which leaf of the live objects.

Such a file knows nothing of a checkpoint's objects: it has a model's own names, or those that
its framework gives in its own files. What matches nothing keeps its name, and is told of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from milepost.checkpoint.selection import Renaming
from milepost.frameworks.base import Finder
from milepost.snapshot import Snapshot
from milepost.state import join


def matched(
    objects: Mapping[str, Any],
    leaves: Sequence[str],
    snapshot: Snapshot,
    find: Finder,
    rename: Mapping[str, str] | None,
) -> dict[str, str]:
    """Snapshot name -> live name, for every leaf of the snapshot that has another name here.

    What `rename` says comes first; what it leaves may be called in the file

    - as here, or so without the name of the object, if no other object has such a leaf;
    - as the object's framework calls it in its own files, with that name or without.

    Raises:
        UsageError: `rename` names nothing, or gives a name twice.
    """
    renaming = Renaming(rename)
    sources = renaming.leaves(snapshot)  # live name -> snapshot name
    others = _other_names(objects, find)
    alone = Counter(_inside(name) for name in leaves)
    names = {live: source for live, source in sources.items() if live in set(leaves)}
    taken = set(names.values())
    for leaf in leaves:
        if leaf in names:
            continue
        for candidate in _candidates(leaf, others.get(leaf, ()), alone):
            found = sources.get(candidate) or snapshot.canonical(candidate)
            if found is not None and found not in taken:
                names[leaf] = found
                taken.add(found)
                break
    return {
        **{source: live for live, source in sources.items() if source not in taken},
        **{source: live for live, source in names.items()},
    }


def _candidates(leaf: str, others: Sequence[str], alone: Mapping[str, int]) -> Iterator[str]:
    owner = leaf.partition("/")[0]
    if alone[_inside(leaf)] == 1:
        yield _inside(leaf)
    for other in others:
        yield join(owner, other)
    yield from others


def _inside(leaf: str) -> str:
    """A leaf's name without that of its object."""
    return leaf.partition("/")[2] or leaf


def _other_names(objects: Mapping[str, Any], find: Finder) -> dict[str, Sequence[str]]:
    found: dict[str, Sequence[str]] = {}
    for name, value in objects.items():
        other_names = getattr(find(value), "other_names", None)
        if other_names is not None:
            found |= other_names(value, name)
    return found
