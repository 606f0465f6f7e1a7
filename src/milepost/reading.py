"""Reading chunks: many at once, each straight to where it belongs, and checked on its way.

What was read is checked while it is still in the core's cache, so the check costs little
beside the reading. Chunks that are small and lie together are read as one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from milepost import decoding, digest
from milepost.buffers import ALIGNMENT, Buffers
from milepost.chunk import Chunk
from milepost.dtypes import byte_view
from milepost.errors import DamagedError
from milepost.light import light
from milepost.source import ByteSource, fill_exactly
from milepost.workers import jobs

_THREADS = 2  # each copies out of the page cache as fast as a core can
_MANY = 200  # parts in a job: Python's own work is most of it, and only one thread does that
_BLOCK_BYTES = 1 << 20  # of half a core's cache, and so large that Python does not count
_SCRATCH = Buffers(_THREADS, ALIGNMENT)


@light
class Part:
    """A chunk of a leaf, and where its bytes go: nowhere, if they are only to be checked."""

    leaf: str
    chunk: Chunk
    target: memoryview | None

    @property
    def end(self) -> int:
        return self.chunk.end


def fetch(files: Sequence[ByteSource], parts: Iterable[Part]) -> None:
    """Read every part, and check it.

    Raises:
        DamagedError: one is not what was saved; targets may have been written to.
    """
    ordered = sorted(parts, key=lambda part: (part.chunk.file, part.chunk.position))
    found = list(jobs(ordered, lambda part: part.chunk.nbytes))
    if len(found) < 2 or len(ordered) > _MANY * len(found):
        for job in found:
            _read(files, job)
        return
    # Each thread reads on from where it has read: so a disk, and the system's reading ahead, are
    # half as fast again as if the threads took turns.
    half = len(found) // 2
    first, second = deque(found[:half]), deque(found[half:])
    with ThreadPoolExecutor(_THREADS, "milepost-read") as pool:
        running = [
            pool.submit(_read_on, files, first, second),
            pool.submit(_read_on, files, second, first),
        ]
        try:
            for one in running:
                one.result()
        finally:
            first.clear()
            second.clear()


def _read_on(files: Sequence[ByteSource], own: deque[list[Part]], other: deque[list[Part]]) -> None:
    """Do a thread's own jobs in their order, and then what the other one would do last."""
    while True:
        try:
            job = own.popleft() if own else other.pop()
        except IndexError:
            return
        try:
            _read(files, job)
        except BaseException:
            own.clear()
            other.clear()
            raise


def _read(files: Sequence[ByteSource], parts: Sequence[Part]) -> None:
    memory = _SCRATCH.take(_BLOCK_BYTES)
    scratch = byte_view(memory)[:_BLOCK_BYTES]
    try:
        for run in _runs(parts):
            file = files[run[0].chunk.file]
            if run[0].chunk.is_encoded:
                _read_encoded(files, run[0])
            elif len(run) == 1:
                _read_one(file, run[0], scratch)
            else:
                _read_together(file, run, scratch)
    finally:
        _SCRATCH.give(memory)


def _runs(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Parts that lie together in a file, and fit into one block."""
    run: list[Part] = []
    first: Chunk | None = None
    most = 0  # so far the next one may begin
    for part in parts:
        chunk = part.chunk
        if first is not None and (
            chunk.file != first.file
            or chunk.encoding is not None
            or first.encoding is not None
            or chunk.position + chunk.nbytes - first.position > _BLOCK_BYTES
            or chunk.position > most
        ):
            yield run
            run, first = [], None
        if first is None:
            first = chunk
        run.append(part)
        most = chunk.position + 2 * chunk.nbytes
    if run:
        yield run


def _read_together(file: ByteSource, run: Sequence[Part], scratch: memoryview) -> None:
    start = run[0].chunk.position
    data = scratch[: max(part.end for part in run) - start]
    fill_exactly(file, start, data)
    for part in run:
        chunk = part.chunk
        begin = chunk.position - start
        found = data[begin : begin + chunk.nbytes]
        if chunk.checksum is not None and not digest.matches(chunk.checksum, found):
            raise _damaged(file, part, digest.checksum(found))
        if part.target is not None:
            part.target[:] = found


def _read_one(file: ByteSource, part: Part, scratch: memoryview) -> None:
    chunk = part.chunk
    if chunk.checksum is None:
        if part.target is not None:
            fill_exactly(file, chunk.position, part.target)
        return
    running = digest.Running(chunk.checksum)
    for start in range(0, chunk.nbytes, _BLOCK_BYTES):
        stop = min(chunk.nbytes, start + _BLOCK_BYTES)
        block = scratch[: stop - start] if part.target is None else part.target[start:stop]
        fill_exactly(file, chunk.position + start, block)
        running.update(block)
    if running.value != chunk.checksum:
        raise _damaged(file, part, running.value)


def _read_encoded(files: Sequence[ByteSource], part: Part) -> None:
    """Where only a check is wanted, what is in the files is checked, and not decoded.

    It was decoded and compared when it was written, and the same bytes decode to the same.
    """
    try:
        if part.target is None:
            decoding.check(files, part.chunk)
        else:
            decoding.decode_into(files, part.chunk, part.target)
    except DamagedError as error:
        raise DamagedError(f"{error} (it is needed for leaf {part.leaf!r})") from None


def _damaged(file: ByteSource, part: Part, found: str) -> DamagedError:
    return DamagedError(
        f"{file.name}, leaf {part.leaf!r}: bytes {part.chunk.position} to {part.end} are "
        f"damaged: expected {part.chunk.checksum}, found {found}"
    )
