"""Which checkpoints to keep: policies, and their unions.

keep = KeepLast(3) | KeepBest("val_accuracy") | KeepEvery(1000)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from milepost.errors import UsageError
from milepost.store import Store
from milepost.store.best import direction_of, ranked


class Keep(Protocol):
    """A policy: which of a store's steps to keep. The newest is kept whatever it says."""

    def steps(self, store: Store) -> set[int]: ...


class _Policy:
    def __or__(self, other: Keep) -> KeepUnion:
        return KeepUnion(self, other)  # type: ignore[arg-type]


@dataclass(frozen=True)
class KeepLast(_Policy):
    """The `n` newest."""

    n: int

    def __post_init__(self) -> None:
        _check_count(self.n)

    def steps(self, store: Store) -> set[int]:
        return set(store.steps[-self.n :])


@dataclass(frozen=True)
class KeepBest(_Policy):
    """The `n` best by a metric, of those that have it; of equals the newer.

    `direction` is `"min"` or `"max"`, or `"best"` to tell it from the metric's name.
    """

    metric: str
    n: int = 1
    direction: str = "best"

    def __post_init__(self) -> None:
        _check_count(self.n)
        if self.direction not in ("best", "min", "max"):
            raise UsageError(
                f"expected 'min', 'max' or 'best' as direction, found {self.direction!r}"
            )
        if self.direction == "best":
            direction_of(self.metric)  # now, rather than at the end of the first epoch

    def steps(self, store: Store) -> set[int]:
        return set(ranked(store.all_metrics(), self.metric, self.direction)[: self.n])


@dataclass(frozen=True)
class KeepEvery(_Policy):
    """Every step that `n` divides."""

    n: int

    def __post_init__(self) -> None:
        _check_count(self.n)

    def steps(self, store: Store) -> set[int]:
        return {step for step in store.steps if step % self.n == 0}


class KeepSteps(_Policy):
    """These steps: pinned by hand."""

    def __init__(self, *steps: int) -> None:
        self._steps = frozenset(steps)

    def steps(self, store: Store) -> set[int]:
        return set(store.steps) & self._steps


class KeepUnion(_Policy):
    """What any of some policies keeps."""

    def __init__(self, *policies: Keep) -> None:
        flat: list[Keep] = []
        for policy in policies:
            flat += policy._policies if isinstance(policy, KeepUnion) else [policy]
        # Those that have to know what every manifest says are asked last.
        self._policies: list[Keep] = sorted(flat, key=lambda policy: isinstance(policy, KeepBest))

    def steps(self, store: Store) -> set[int]:
        kept: set[int] = set()
        for policy in self._policies:
            kept |= policy.steps(store)
            if kept.issuperset(store.steps):
                break  # the others have nothing to add
        return kept


def _check_count(n: int) -> None:
    if n < 1:
        raise UsageError(f"expected to keep 1 checkpoint or more, found {n}")
