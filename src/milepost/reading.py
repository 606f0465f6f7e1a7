"""Reading chunks: many at once, each straight to where it belongs, and checked on its way.

What was read is checked while it is still in the core's cache, so the check costs little
beside the reading. Chunks that are small and lie together are read as one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from milepost import decoding, digest
from milepost.buffers import ALIGNMENT, Buffers, address, copy
from milepost.chunk import Chunk
from milepost.dtypes import byte_view
from milepost.errors import DamagedError
from milepost.light import light
from milepost.source import ByteSource, Look, fill_exactly
from milepost.workers import Workers, jobs

_THREADS = 2  # each copies out of the page cache as fast as a core can
_MANY = 200  # parts in a job: Python's own work is most of it, and only one thread does that
_BLOCK_BYTES = 1 << 20  # of half a core's cache, and so large that Python does not count
_LOOK_BYTES = 1 << 22  # which a disk that reads past the page cache gives sooner than four reads
_SCRATCH = Buffers(_THREADS, ALIGNMENT)
_PAGE_BYTES = 4096
_SLOW_BYTES = 1 << 18  # of less, a second copy is slow itself


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
    with Workers(_THREADS, "milepost-read") as workers:
        running = [
            workers.submit(_read_on, files, first, second),
            workers.submit(_read_on, files, second, first),
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
    memory = _SCRATCH.take(_BLOCK_BYTES + ALIGNMENT)
    scratch = byte_view(memory)
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
    data = _in_scratch(scratch, start, max(part.end for part in run) - start)
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
            for _ in _blocks(file, part, scratch):
                pass
        return
    running = digest.Running(chunk.checksum)
    for block in _blocks(file, part, scratch):
        running.update(block)
    if running.value != chunk.checksum:
        raise _damaged(file, part, running.value)


def _blocks(file: ByteSource, part: Part, scratch: memoryview) -> Iterator[memoryview]:
    """The bytes of a part, block after block: each where it is to go, if anywhere."""
    position, target = part.chunk.position, part.target
    is_slow = target is not None and _is_slow(position, target)
    straight = target is not None and not is_slow
    most = _LOOK_BYTES if straight and isinstance(file, Look) else _BLOCK_BYTES
    for start in range(0, part.chunk.nbytes, most):
        stop = min(part.chunk.nbytes, start + most)
        place = None if target is None else target[start:stop]
        if place is None or is_slow:
            block = _in_scratch(scratch, position + start, stop - start)
        else:
            block = place
        fill_exactly(file, position + start, block)
        if place is not None and is_slow:
            copy(block, place)
        yield block if place is None else place


def _in_scratch(scratch: memoryview, position: int, nbytes: int) -> memoryview:
    """Memory for what lies at `position`, as far into a cache line as that is."""
    start = position % ALIGNMENT
    return scratch[start : start + nbytes]


def _is_slow(position: int, target: memoryview) -> bool:
    """Whether the system takes several times as long to copy from its page cache to there.

    Processors of AMD do, 2.6 GB/s instead of 13, if within a page the target begins less than
    a cache line behind what it is copied from: so does every large array of NumPy's own.
    """
    if len(target) < _SLOW_BYTES:
        return False
    return 0 < (address(target) - position) % _PAGE_BYTES < ALIGNMENT


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
