"""In what two snapshots differ, whatever their formats."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from milepost import opening
from milepost.checkpoint.selection import Renaming
from milepost.inspection.content import plain_key, same_recorded
from milepost.inspection.distance import ArrayPair, Distance
from milepost.inspection.moves import find_moves
from milepost.inspection.numbers import Progress
from milepost.record import ArrayRecord, PlainRecord
from milepost.snapshot import Snapshot
from milepost.state import LeafSpec, Plain
from milepost.store import Store

Openable: TypeAlias = "Snapshot | str | os.PathLike[str]"
Kind: TypeAlias = Literal["shape", "dtype", "values", "bits"]


@dataclass(frozen=True, slots=True)
class LeafDifference:
    """A leaf that both snapshots have, but not the same.

    Attributes:
        name: what it is called in B, and in A, if it is not renamed.
        before: its dtype and shape in A.
        after: its dtype and shape in B.
        distance: how far the arrays are apart; None where they cannot be compared.
        values: of a plain value, that in A and that in B.
    """

    name: str
    before: LeafSpec
    after: LeafSpec
    distance: Distance | None = None
    values: tuple[Plain, Plain] | None = None

    @property
    def kind(self) -> Kind:
        """What differs first: the shape, the dtype, the values, or only bits (0.0 and -0.0)."""
        if self.before.shape != self.after.shape:
            return "shape"
        if self.before.dtype != self.after.dtype:
            return "dtype"
        return "bits" if self.distance is not None and not self.distance.differing else "values"

    @property
    def relative_l2(self) -> float:
        """How far apart, relative to A; infinity where that cannot be told."""
        if self.distance is None or math.isnan(self.distance.relative_l2):
            return math.inf
        return self.distance.relative_l2


@dataclass(frozen=True, slots=True)
class Difference:
    """In what snapshot B differs from snapshot A.

    Attributes:
        only_a: the names of leaves that only A has.
        only_b: the names of leaves that only B has.
        moved: the name in A and the name in B of leaves that are equal, but called otherwise.
        changed: the leaves of one name that differ, worst first.
        identical: how many leaves are the same to the last bit.
    """

    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    moved: tuple[tuple[str, str], ...]
    changed: tuple[LeafDifference, ...]
    identical: int

    @property
    def is_identical(self) -> bool:
        """Whether all leaves have the same names, and are the same to the last bit."""
        return not (self.only_a or self.only_b or self.moved or self.changed)

    @property
    def worst(self) -> float:
        """The largest relative L2 distance of arrays that could be compared; 0 if none differs."""
        measured = [leaf.relative_l2 for leaf in self.changed if leaf.distance is not None]
        return max(measured, default=0.0)

    def exceeds(self, limit: float) -> bool:
        """Whether names, shapes or dtypes differ, or the values of a leaf by more than `limit`."""
        named = bool(self.only_a or self.only_b or self.moved)
        return named or any(
            leaf.kind in ("shape", "dtype") or leaf.relative_l2 > limit for leaf in self.changed
        )


def diff(
    a: Openable,
    b: Openable,
    *,
    rename: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Difference:
    """Compare two snapshots leaf by leaf, in memory that does not grow with them.

    Arrays whose digests are recorded, and equal, are not read. Where only the dtype differs,
    the values are compared all the same, so that it is seen how far a cast went.

    Arguments:
        a: a snapshot, or the path of anything that `milepost.open` opens; of a store, the
            newest checkpoint.
        b: the same.
        rename: name in A -> name in B, of leaves or of whole subtrees.
        progress: is told, now and then, how many bytes more have been compared. They add up
            to `a.nbytes + b.nbytes` at most.

    Raises:
        UsageError: `rename` names nothing, or gives two leaves one name.
        DamagedError: what is read is not what was saved.
    """
    with contextlib.ExitStack() as stack:
        return _diff(_opened(a, stack), _opened(b, stack), rename, progress or _unheard)


def _unheard(nbytes: int) -> None:
    """Nobody waits."""


def _opened(source: Openable, stack: contextlib.ExitStack) -> Snapshot:
    if isinstance(source, Snapshot):
        return source
    opened = opening.open(source)
    snapshot = opened.open_step("latest") if isinstance(opened, Store) else opened
    return stack.enter_context(snapshot)


def _diff(
    a: Snapshot, b: Snapshot, rename: Mapping[str, str] | None, progress: Progress
) -> Difference:
    sources = Renaming(rename).leaves(a)  # name in B -> name in A
    both = [(old, name) for name, old in sources.items() if name in b]
    found = [_compare(a, old, b, name, progress) for old, name in both]
    changed = [leaf for leaf in found if leaf is not None]
    only_a = [old for name, old in sources.items() if name not in b]
    only_b = [name for name in b if name not in sources]
    moved = find_moves(a, only_a, b, only_b, progress)
    gone, come = {old for old, _ in moved}, {new for _, new in moved}
    return Difference(
        tuple(name for name in only_a if name not in gone),
        tuple(name for name in only_b if name not in come),
        tuple(moved),
        tuple(sorted(changed, key=lambda leaf: -leaf.relative_l2)),
        len(both) - len(changed),
    )


def _compare(
    a: Snapshot, name_a: str, b: Snapshot, name_b: str, progress: Progress
) -> LeafDifference | None:
    """In what two leaves differ; None if they are the same."""
    left, right = a.record(name_a), b.record(name_b)
    before, after = left.spec, right.spec
    if isinstance(left, PlainRecord) and isinstance(right, PlainRecord):
        if plain_key(left.value) == plain_key(right.value):
            return None
        return LeafDifference(name_b, before, after, values=(left.value, right.value))
    if not isinstance(left, ArrayRecord) or not isinstance(right, ArrayRecord):
        return LeafDifference(name_b, before, after)
    if before.shape != after.shape or (before == after and same_recorded(left, right)):
        progress(left.nbytes + right.nbytes)
        return None if before == after else LeafDifference(name_b, before, after)
    found = ArrayPair(a, name_a, b, name_b).distance(progress)
    if found is None and before == after:
        return None
    return LeafDifference(name_b, before, after, found)
