"""Chunks of a step on their way to being encoded, by several threads.

What a chunk is encoded against is decided here: the base of its group, if the differences to
that gain enough (see `groups`); else a new base some steps ahead, or itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import NamedTuple, TypeAlias

from milepost import dtypes
from milepost.chunk import Chunk, Shape
from milepost.container import ALIGNMENT
from milepost.store.groups import LEAST_GAIN, Group
from milepost.store.recode import Encoded, Recoder
from milepost.store.recoded import Packs
from milepost.workers import Workers
from milepost.workers import jobs as grouped

# Most leaves are so small that handing over each takes longer than encoding it.
_JOB_BYTES = 1 << 20


class Where(NamedTuple):
    """The place of a chunk: its leaf, the dtype and shape of that, and the box in it."""

    name: str
    dtype: str
    shape: Shape
    offset: Shape
    box: Shape


Placed: TypeAlias = tuple[Where, Chunk]


class Job(NamedTuple):
    """A chunk to be encoded; `ahead` is what may become the base of its next group."""

    where: Where
    chunk: Chunk
    group: Group | None
    ahead: Chunk | None

    @property
    def layout_order(self) -> tuple[bool, int]:
        """What keeps every tensor of a pack aligned to its elements, encoded or not."""
        itemsize = dtypes.numpy_dtype(self.where.dtype).itemsize
        return self.chunk.nbytes % ALIGNMENT != 0, -itemsize

    def planned(self) -> Iterator[tuple[str, str, Shape, Chunk]]:
        """What may have to be written for it: leaf, dtype and shape of that, and chunk."""
        for chunk in (self.ahead, self.chunk):
            if chunk is not None:
                yield self.where.name, self.where.dtype, self.where.shape, chunk


class Found(NamedTuple):
    """How a chunk is encoded, and its base if that is new.

    `refused` says that the differences to its group's base were tried, and were too large.
    """

    own: Encoded
    base: tuple[Chunk, Encoded] | None = None
    refused: bool = False


def encoded(jobs: Sequence[Job], packs: Packs, threads: int) -> Iterator[tuple[Job, Found]]:
    """Each job and what was found for it, in their order."""
    recoders = [Recoder() for _ in range(threads)]
    running: deque[tuple[list[Job], Future[list[Found]]]] = deque()

    def encode(some: list[Job]) -> list[Found]:
        recoder = recoders.pop()
        try:
            return [_best(job, packs, recoder) for job in some]
        finally:
            recoders.append(recoder)

    with Workers(threads, "milepost-compact") as workers:
        for some in grouped(jobs, lambda job: job.chunk.nbytes, _JOB_BYTES):
            running.append((some, workers.submit(encode, some)))
            if len(running) > threads:
                first, future = running.popleft()
                yield from zip(first, future.result(), strict=True)
        while running:
            first, future = running.popleft()
            yield from zip(first, future.result(), strict=True)


def _best(job: Job, packs: Packs, recoder: Recoder) -> Found:
    leaf, group = job.where.name, job.group
    width = dtypes.number_bytes(job.where.dtype)
    refused = False
    with packs.raw(leaf, job.chunk) as raw:
        if group is not None and not group.wait:
            with packs.raw(leaf, group.base) as base:
                own = recoder.differences(raw, width, (group.base, base), group.most)
            if own is not None:
                return Found(own)
            refused = True
        if job.ahead is not None:
            with packs.raw(leaf, job.ahead) as other:
                most = recoder.share_alone(raw, width) - LEAST_GAIN
                own = recoder.differences(raw, width, (job.ahead, other), most)
                if own is not None:
                    return Found(own, (job.ahead, recoder.alone(other, width)), refused)
        return Found(recoder.alone(raw, width), None, refused)
