"""Which chunks of neighbouring checkpoints are encoded against which.

Of the chunks at one place in one leaf, step after step, one is the base of a group, encoded by
itself, and its neighbours before and after it are encoded as differences to it: never to one
another, so that any of them is read with one more step than the base. But then two chunks are
read and decoded for one, so differences are taken only where they save something worth that.
The farther from the base, the larger they are. Once they cost more than the group has cost on
average, the next group begins, which is where the average is lowest; and its base is put as far
ahead as half of the last group reached, so that it has neighbours on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from milepost.chunk import Chunk

# No base is looked for farther ahead.
MOST_AHEAD = 8
# Differences have to save so much of a chunk's raw size beside it encoded by itself. Of a model
# trained from scratch this costs a hundredth of the size, and spares a third of the time to read.
LEAST_GAIN = 0.05
# Where the differences to a neighbour gain nothing, they are tried again after so many steps.
_PATIENCE = 4


@dataclass(frozen=True, slots=True)
class Group:
    """The chunks that were encoded against one base, with that."""

    base: Chunk
    nbytes: int  # in files, all of them together
    count: int = 1
    wait: int = 0  # so many more chunks are not compared with it

    @property
    def average(self) -> float:
        """What a chunk of it takes, as a share of its raw bytes."""
        return self.nbytes / self.count / self.base.nbytes

    @property
    def most(self) -> float:
        """The share of its raw bytes that one more chunk may take as differences to the base."""
        return min(self.average, self.base.stored_bytes / self.base.nbytes - LEAST_GAIN)

    @property
    def ahead(self) -> int:
        """How many steps ahead the base of the next group is best put."""
        return min(MOST_AHEAD, self.count // 2)


def next_group(group: Group | None, chunk: Chunk, *, refused: bool = False) -> Group:
    """The group of a place in a leaf, once `chunk` is the newest that was encoded there.

    `refused` says that differences to the group's base were tried, and were too large.
    """
    assert chunk.encoding is not None
    base = chunk.encoding.base
    if group is not None and chunk.digest == group.base.digest:
        return group  # its base, which was put there when the group began
    if base is None:
        wait = 0 if group is None else max(0, group.wait - 1)
        if group is not None and refused and group.count == 1:
            wait = _PATIENCE
        return Group(chunk, chunk.stored_bytes, wait=wait)
    if group is None or group.base.digest != base.digest:
        return Group(base, base.stored_bytes + chunk.stored_bytes, 2)
    return replace(group, nbytes=group.nbytes + chunk.stored_bytes, count=group.count + 1)
