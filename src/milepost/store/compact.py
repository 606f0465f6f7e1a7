"""Compaction: older checkpoints of a store are encoded against their neighbours, as git repacks.

Nothing that is committed is ever in danger. A step's new pack is written and durable before
its manifest is replaced, in one instant, by one that refers to it; and what no manifest refers
to any more is removed last. So a crash at any point leaves every step readable, from the old
pack or from the new one, and at worst a pack that nobody needs, which the next compaction or
`prune` removes.

The newest checkpoint is left as it is: it is what the next save is compared with, and what is
restored most. So is whatever older ones share with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace

from milepost.chunk import Chunk
from milepost.errors import DamagedError, PathNotFoundError, StepNotFoundError, VersionError
from milepost.record import ArrayRecord
from milepost.store import layout, manifest
from milepost.store.groups import MOST_AHEAD, Group, next_group
from milepost.store.jobs import Job, Placed, Where, encoded
from milepost.store.manifest import Manifest
from milepost.store.prune import remove_unreferenced
from milepost.store.recoded import NewPack, Packs, renumbered
from milepost.store.store import Store

# So many steps are compacted before the packs that they no longer need are removed.
_BATCH = 8


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What a compaction did.

    Attributes:
        path: the store.
        steps: those that were compacted now.
        before: the size of all packs that checkpoints refer to, in bytes, before.
        after: the same, after.
    """

    path: str
    steps: tuple[int, ...]
    before: int
    after: int


def compact(store: Store, threads: int, told: Callable[[int, int], None]) -> CompactReport:
    """Compact a store, and say what that gained; as `Compaction`."""
    before = _referenced_bytes(store)
    steps = Compaction(store, threads=threads, told=told).run()
    after = _referenced_bytes(store) if steps else before
    return CompactReport(store.name, steps, before, after)


def _referenced_bytes(store: Store) -> int:
    """The size of all packs that a checkpoint refers to."""
    store.references.update()
    total = 0
    for name in store.references.packs:
        with contextlib.suppress(PathNotFoundError):
            source = store.storage.open(name)
            total += source.size
            source.close()
    return total


class Compaction:
    """Compacts a store by `threads` threads, as often as `run` is called.

    `stopped` is asked again and again: once it says so, the step that is under way is left as
    it was. `told` is called with every step that is compacted, and how many are left to see.
    """

    def __init__(
        self,
        store: Store,
        *,
        threads: int = 2,
        stopped: Callable[[], bool] = lambda: False,
        told: Callable[[int, int], None] = lambda step, left: None,
    ) -> None:
        self._store, self._threads = store, threads
        self._stopped, self._told = stopped, told
        self._packs = Packs(store)
        self._newest: tuple[bytes, set[str | None]] = (b"", set())
        self._begin()

    def _begin(self) -> None:
        """Forget which steps were seen: each has to be seen again, in turn."""
        self._groups: dict[Where, Group] = {}
        self._last: dict[str, Chunk] = {}  # by digest: those of the step before
        self._later: dict[int, _Later] = {}
        self._passed: set[int] = set()
        self._spared: set[str | None] = set()  # digests that the newest checkpoint had, too

    def run(self) -> tuple[int, ...]:
        """Compact every step but the newest; returns those that were not compacted before.

        Raises:
            DamagedError: a step's data is not what was saved. It is as it was, and so are
                those after it.
            StorageError: the storage refused; every step is as it was or compacted.
        """
        steps = self._store.steps
        if len(steps) < 2:
            return ()
        if not self._spared <= self._live():
            self._begin()
        todo = [step for step in steps[:-1] if step not in self._passed]
        done: list[int] = []
        for number, step in enumerate(todo):
            if self._stopped():
                break
            with contextlib.suppress(StepNotFoundError):  # another process removed it
                if self._compacted(step, todo[number + 1 : number + 1 + MOST_AHEAD]):
                    done.append(step)
                    self._told(step, len(todo) - number - 1)
                    if len(done) % _BATCH == 0:
                        remove_unreferenced(self._store)
        if done or self._has_leftovers():
            remove_unreferenced(self._store)
        return tuple(done)

    def _has_leftovers(self) -> bool:
        """Whether there are packs that no manifest refers to, as a crash leaves them."""
        self._store.references.update()
        there = {f"{layout.DATA}/{file}" for file in self._store.storage.list(layout.DATA)}
        return not there <= self._store.references.packs

    def _compacted(self, step: int, following: Sequence[int]) -> bool:
        """Compact one step, if it is not yet; whether it was done. Others follow it."""
        with self._store.storage.lock(exclusive=False):
            self._packs.close()
            document = self._store.document(step)
            found = self._later.pop(step, None)
            if found is None or found.document != document:
                found = self._decoded(document, step)
            if found.manifest is None:
                return False  # what cannot be read stays as it is
            old, chunks = found.manifest, list(found.chunks.items())
            pending = self._pending(chunks)
            recoded = _Recoded({}, set())
            if pending:
                name = layout.new_pack_name(step)
                written = self._written(name, pending, following)
                if written is None:
                    return False
                recoded = written
        if pending and not self._replaced(step, document, old, recoded, name):
            return False
        self._pass(chunks, recoded)
        self._passed.add(step)
        return bool(pending)

    def _replaced(
        self, step: int, document: bytes, old: Manifest, recoded: _Recoded, name: str
    ) -> bool:
        """Replace a step's manifest, unless somebody else has, or has removed what it needs."""
        new = self._packs.manifest(old, recoded.chunks)
        data = manifest.encode(new)
        self._store.decoded(data, step)  # nothing is replaced by what could not be read
        with self._store.storage.lock(exclusive=True):
            if self._is_still(step, document) and self._packs.are_there(new.packs):
                self._store.storage.replace(layout.manifest_name(step), [data], len(data))
                self._store.forget(step)
                return True
            self._store.storage.delete([name])
            return False

    def _is_still(self, step: int, document: bytes) -> bool:
        try:
            return self._store.document(step) == document
        except StepNotFoundError:
            return False

    def _chunks(self, found: Manifest) -> Iterator[Placed]:
        """Every chunk of a checkpoint, its file as an index into all packs."""
        index = [self._packs.index(pack) for pack in found.packs]
        for name, record in found.records.items():
            if isinstance(record, ArrayRecord):
                for chunk in record.chunks:
                    where = Where(name, record.dtype, record.shape, chunk.offset, chunk.shape)
                    yield where, renumbered(chunk, index.__getitem__)

    def _pending(self, chunks: list[Placed]) -> list[Placed]:
        """Those that are not encoded, and that the newest checkpoint does not hold."""
        pending = [(where, chunk) for where, chunk in chunks if chunk.encoding is None]
        if not pending:
            return []
        live = self._live()
        return [(where, chunk) for where, chunk in pending if chunk.digest not in live]

    def _live(self) -> set[str | None]:
        newest = self._store.steps[-1]
        document = self._store.document(newest)
        if document != self._newest[0]:
            chunks = self._chunks(self._store.decoded(document, newest))
            self._newest = document, {chunk.digest for _, chunk in chunks}
        return self._newest[1]

    def _pass(self, chunks: list[Placed], recoded: _Recoded) -> None:
        """A step is done: the next one is compared with it."""
        last = {}
        for where, chunk in chunks:
            now = recoded.chunks.get(str(chunk.digest), chunk)
            if now.encoding is None:
                self._spared.add(now.digest)
                continue
            last[str(now.digest)] = now
            if now.digest not in self._last:
                group, refused = self._groups.get(where), where in recoded.refused
                self._groups[where] = next_group(group, now, refused=refused)
        self._last = last
        self._packs.forget({group.base.digest for group in self._groups.values()}.__contains__)
        self._packs.close()

    def _written(
        self, name: str, pending: list[Placed], following: Sequence[int]
    ) -> _Recoded | None:
        """Write a pack with these chunks, but for those that another step has. None if stopped."""
        recoded = _Recoded({}, set())
        todo: dict[str, tuple[Where, Chunk, Group | None]] = {}
        for where, chunk in pending:
            value, group = str(chunk.digest), self._group(where)
            if group is not None and group.base.digest == value:
                recoded.chunks[value] = group.base  # it was put into an earlier step's pack
            elif value in self._last and self._packs.has(self._last[value]):
                recoded.chunks[value] = self._last[value]
            else:
                todo.setdefault(value, (where, chunk, group))
        if not todo:
            return recoded
        jobs = [
            Job(where, chunk, group, self._ahead(where, group, following, todo))
            for where, chunk, group in todo.values()
        ]
        jobs.sort(key=lambda job: job.layout_order)
        plan = NewPack(name, self._packs.reserve(), [p for job in jobs for p in job.planned()])
        with self._store.storage.create(name, plan.head_bytes, plan.most_bytes) as pack:
            for job, found in encoded(jobs, self._packs, self._threads):
                if self._stopped():
                    return None
                encoding = found.own.encoding
                if found.base is not None:
                    base = plan.add(pack, found.base[0], found.base[1])
                    encoding = replace(encoding, base=base)
                if encoding.base is None or found.base is not None:
                    self._packs.remember(job.chunk if found.base is None else found.base[0])
                recoded.chunks[str(job.chunk.digest)] = plan.add(
                    pack, job.chunk, replace(found.own, encoding=encoding)
                )
                if found.refused:
                    recoded.refused.add(job.where)
            pack.finish(plan.header())
        self._packs.fill(plan.index, plan.ref)
        return recoded

    def _group(self, where: Where) -> Group | None:
        """The group of a place, if its base is still there."""
        group = self._groups.get(where)
        if group is not None and not self._packs.has(group.base):
            del self._groups[where]
            return None
        return group

    def _ahead(
        self, where: Where, group: Group | None, following: Sequence[int], todo: Container[str]
    ) -> Chunk | None:
        """What would be the base of the next group of this place, if one began.

        None of what is encoded in this step: that may have a base itself.
        """
        if group is None or group.wait:
            return None
        _, live = self._newest
        for step in reversed(following[: group.ahead]):
            found = self._following(step).get(where)
            if found is None or str(found.digest) in todo or found.digest in live:
                continue
            if found.encoding is None and self._packs.has(found):
                return found
        return None

    def _following(self, step: int) -> dict[Where, Chunk]:
        """The chunks of a step that is compacted later."""
        if step not in self._later:
            while len(self._later) > MOST_AHEAD:
                del self._later[min(self._later)]
            self._later[step] = _Later(b"", None, {})
            with contextlib.suppress(StepNotFoundError):
                self._later[step] = self._decoded(self._store.document(step), step)
        return self._later[step].chunks

    def _decoded(self, document: bytes, step: int) -> _Later:
        try:
            found = self._store.decoded(document, step)
        except (DamagedError, VersionError):
            return _Later(document, None, {})
        return _Later(document, found, dict(self._chunks(found)))


@dataclass(frozen=True, slots=True)
class _Later:
    """What a step's manifest says that is compacted later; None if it cannot be read."""

    document: bytes
    manifest: Manifest | None
    chunks: dict[Where, Chunk]


@dataclass(frozen=True, slots=True)
class _Recoded:
    """What became of a step's chunks: by digest; and where differences were tried in vain."""

    chunks: dict[str, Chunk]
    refused: set[Where]
