"""The short form of the benchmarks: one state of NumPy arrays, a disk, and their limits.

Everything is measured once in every round, in an order that differs from round to round, so
that a slow moment of the machine falls on all alike. The first round is not counted: it takes
what happens only once, and the first touch of memory.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from milepost.bench import limits
from milepost.bench.limits import timed
from milepost.checkpoint import Checkpoint
from milepost.dtypes import Array
from milepost.errors import PathNotFoundError, StorageError, UsageError
from milepost.storage.filesystem import OperatingSystem
from milepost.storage.local import LocalStorage
from milepost.store import Store, prune

_LAYERS = 8
_ROOM = 4  # as many states lie on the disk at a time: two saved ones, and two files of the limits
_SPARE_BYTES = 16 << 20  # and what belongs to no array
_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs", "rootfs")


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured in every round.

    Attributes:
        title: what it is, for people.
        seconds: one a round.
        nbytes: how much was written, read or copied.
        limit: the name of the measurement of what is possible at best; None for a limit.
    """

    title: str
    seconds: tuple[float, ...]
    nbytes: int
    limit: str | None

    @property
    def median(self) -> float:
        """The median over the rounds, in seconds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True, slots=True)
class Report:
    """What `measure` found.

    Attributes:
        path: the folder whose disk was measured.
        filesystem: its kind, if the operating system tells.
        direct: whether writes go past the page cache there.
        in_memory: whether files there are in memory only, where nothing is ever durable.
        nbytes: the size of the state.
        measurements: by name.
    """

    path: str
    filesystem: str | None
    direct: bool
    in_memory: bool
    nbytes: int
    measurements: dict[str, Measurement]

    def beside_limit(self, name: str) -> float | None:
        """How many times as long as its limit something takes; None for a limit itself."""
        found = self.measurements[name]
        return found.median / self.measurements[found.limit].median if found.limit else None


def measure(
    path: str,
    nbytes: int,
    rounds: int,
    advance: Callable[[], None] = lambda: None,
    *,
    seed: int = 0,
) -> Report:
    """Measure saves and restores of a state in a folder of its own below `path`.

    The folder is removed at the end, however that comes.

    Arguments:
        path: a folder on the disk to measure.
        nbytes: the size of the state. Four times as much is used of the disk, and of memory.
        rounds: how often everything is measured.
        advance: called after every round, the one that is not counted too.
        seed: of the order.

    Raises:
        PathNotFoundError: there is no such folder.
        UsageError: it is no folder.
        StorageError: there is no room.
    """
    check_room(path, nbytes)
    with tempfile.TemporaryDirectory(dir=path, prefix=".milepost-bench-") as folder:
        direct, kind = limits.goes_direct(folder), limits.filesystem_of(folder)
        in_memory = kind in _IN_MEMORY
        with _subject(folder, nbytes, direct=direct and not in_memory, cold=not in_memory) as it:
            found = it.rounds(rounds, advance, random.Random(seed))
            return Report(path, kind, it.is_direct, in_memory, it.nbytes, found)


def check_room(path: str, nbytes: int) -> None:
    """Refuse what cannot be measured there. Raises as `measure` does."""
    if not os.path.exists(path):
        raise PathNotFoundError(f"{path} does not exist: name a folder on the disk to measure")
    if not os.path.isdir(path):
        raise UsageError(f"{path} is no folder: name one on the disk to measure")
    free = OperatingSystem().free_bytes(path)
    needed = _ROOM * nbytes + _SPARE_BYTES
    if free < needed:
        raise StorageError(
            f"{path} has {free / 1e6:.0f} MB free, and a state of {nbytes / 1e6:.0f} MB needs "
            f"{needed / 1e6:.0f} MB there for the measuring: choose a smaller --size"
        )


@contextlib.contextmanager
def _subject(folder: str, nbytes: int, *, direct: bool, cold: bool) -> Iterator[_Subject]:
    subject = _Subject(folder, nbytes, direct=direct, cold=cold)
    try:
        yield subject
    finally:
        # Nobody may write to the folder any more when it is removed.
        with contextlib.suppress(Exception):
            subject.checkpoint.wait()


class _Subject:
    """A state, where it is saved to, and what is measured: each method takes its seconds."""

    def __init__(self, folder: str, nbytes: int, *, direct: bool, cold: bool) -> None:
        self.folder = folder
        self.state = _arrays(nbytes)
        self.arrays = list(self.state.values())
        self.nbytes = sum(array.nbytes for array in self.arrays)
        self.copies = [limits.used(array.nbytes).view(array.dtype) for array in self.arrays]
        self.buffers = limits.used_buffers()
        self.store = os.path.join(folder, "store")
        self.file = os.path.join(folder, "file")  # what the limits read
        self.checkpoint = Checkpoint(state=self.state)
        self.is_direct = direct
        self.is_cold = cold and limits.can_drop_cache()

    def rounds(
        self, count: int, advance: Callable[[], None], chance: random.Random
    ) -> dict[str, Measurement]:
        jobs = self._jobs()
        seconds: dict[str, list[float]] = {name: [] for name in jobs}
        self.checkpoint.save(self.store)
        limits.write(self.file, self.nbytes, self.buffers, direct=self.is_direct)
        for number in range(count + 1):
            for name in chance.sample(list(jobs), len(jobs)):
                taken = jobs[name][1]()
                if number:
                    seconds[name].append(taken)
            advance()
        return {
            name: Measurement(title, tuple(seconds[name]), self.nbytes, limit)
            for name, (title, _, limit) in jobs.items()
        }

    def _jobs(self) -> dict[str, tuple[str, Callable[[], float], str | None]]:
        how = "past the page cache, two threads" if self.is_direct else "one thread"
        jobs: dict[str, tuple[str, Callable[[], float], str | None]] = {
            "write_limit": (f"limit: write and sync, {how}", self._write, None),
            "durable_save": ("save, durable", self._save, "write_limit"),
            "unchanged_save": ("save, durable, nothing changed", self._save_again, "write_limit"),
            "copy_limit": ("limit: copy in memory, two threads", self._copy, None),
            "blocked": ("save in the background: blocked", self._blocked, "copy_limit"),
            "warm_limit": (
                "limit: read from the page cache, two threads",
                lambda: self._cached(self._read, self.file),
                None,
            ),
            "warm_restore": (
                "restore in place, verified",
                lambda: self._cached(self._restore, self.store),
                "warm_limit",
            ),
        }
        if self.is_cold:
            jobs["cold_limit"] = (
                "limit: read from the disk, two threads",
                lambda: self._dropped(self._read, self.file),
                None,
            )
            jobs["cold_restore"] = (
                "restore in place from the disk, verified",
                lambda: self._dropped(self._restore, self.store),
                "cold_limit",
            )
        return jobs

    def _change(self) -> None:
        for array in self.arrays:
            np.add(array, 1, out=array)

    def _write(self) -> float:
        path = os.path.join(self.folder, "limit")
        try:
            return limits.write(path, self.nbytes, self.buffers, direct=self.is_direct)
        finally:
            os.unlink(path)

    def _save(self) -> float:
        self._change()
        seconds = timed(lambda: self.checkpoint.save(self.store))
        self._prune()
        return seconds

    def _save_again(self) -> float:
        return timed(lambda: self.checkpoint.save(self.store))

    def _blocked(self) -> float:
        self._change()
        seconds = timed(lambda: self.checkpoint.save(self.store, background=True))
        self.checkpoint.wait()
        self._prune()
        return seconds

    def _copy(self) -> float:
        return limits.copy(self.arrays, self.copies)

    def _read(self) -> float:
        return limits.read(self.file, self.copies)

    def _restore(self) -> float:
        return timed(lambda: self.checkpoint.restore(self.store))

    def _cached(self, action: Callable[[], float], path: str) -> float:
        limits.fill_cache(path, self.buffers[0])
        return action()

    def _dropped(self, action: Callable[[], float], path: str) -> float:
        limits.settle()
        limits.drop_cache(path)
        return action()

    def _prune(self) -> None:
        """Keep the newest only: a benchmark should not fill anybody's disk."""
        prune(Store.open(LocalStorage(self.store)), lambda store: [])


def _arrays(nbytes: int) -> dict[str, Array]:
    """Layers as a transformer has them, of numbers that do not compress: `nbytes`, about."""
    # A layer has 12 matrices of `width` by `width`, in four arrays, and as many vectors.
    width = max(8, round((nbytes / 4 / _LAYERS / 12) ** 0.5))
    chance = np.random.default_rng(0)
    found: dict[str, Array] = {}
    for layer in range(_LAYERS):
        for name, rows, columns in (("qkv", 3, 1), ("out", 1, 1), ("up", 4, 1), ("down", 1, 4)):
            shape = (rows * width, columns * width)
            found[f"{layer}.{name}.weight"] = chance.standard_normal(shape, np.float32)
            found[f"{layer}.{name}.bias"] = chance.standard_normal(shape[0], np.float32)
    return found
