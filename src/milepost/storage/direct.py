"""Writing a large file past the page cache, where that can be done, from a few threads.

The page cache costs a copy by the kernel, and the file then waits for its `sync`; a large
file that is written once is on the disk sooner without. The data is copied here too, into
buffers that are used again and again: that aligns it, and it makes sure that the bytes that
are digested are the bytes that are written, whatever becomes of the array meanwhile.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from types import TracebackType
from typing import Self

import numpy as np

from milepost.buffers import Buffers
from milepost.digest import Buffer
from milepost.dtypes import Array, byte_view
from milepost.storage.base import Watcher
from milepost.storage.filesystem import BLOCK, NOT_DIRECT, FileSystem, Handle
from milepost.workers import Workers

# As many of each keep two cores and a disk busy; the buffers are the memory that a save takes.
_THREADS = 3
_BUFFERS = 3
# Small parts are written so many bytes at a time.
_TOGETHER = 4 << 20

_Watched = tuple[memoryview, Watcher]


def buffer_bytes(largest: int, total: int) -> int:
    """How large a buffer serves parts of up to `largest` bytes, `total` all together."""
    return max(largest, min(total, _TOGETHER))


def staging() -> Buffers:
    """Buffers for one writer after another."""
    return Buffers(_BUFFERS, BLOCK)


class DirectWriter:
    """Writes the data of a file, part after part, from `start` on: a multiple of `BLOCK`.

    Use it as a context manager: everything is written at the end of the block, not synced. If
    the block fails, nothing is written any more once it is left.
    """

    def __init__(
        self,
        fs: FileSystem,
        handle: Handle,
        start: int,
        buffer_bytes: int,
        buffers: Buffers | None = None,
    ) -> None:
        """`buffer_bytes` is the size of the largest part, or more."""
        self._fs, self._handle, self._position = fs, handle, start
        self._direct = fs.bypass_cache(handle, True)
        self._size = -(-buffer_bytes // BLOCK) * BLOCK + BLOCK  # what is left over, and a part
        self._buffers = buffers or staging()
        self._pool = Workers(_THREADS, "milepost-write")
        self._jobs: deque[tuple[Future[None], Array]] = deque()
        self._buffer, self._used = self._buffers.take(self._size), 0
        self._staged, self._flushed = 0, False
        self._watched: list[_Watched] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._pool:
            if error is None:
                self.flush()
            else:
                self._pool.cancel()

    def add(self, data: Buffer, watcher: Watcher) -> memoryview:
        """Write `data` next. Returns its copy, which is valid until the next call."""
        copy = self.stage(data)
        self.keep(watcher)
        return copy

    def stage(self, data: Buffer) -> memoryview:
        """Copy a part. Returns the copy, which is valid until the next call."""
        if self._used + len(data) > self._size:
            self._next_buffer()
        copy = self._buffer[self._used : self._used + len(data)]
        np.copyto(copy, np.frombuffer(data, np.uint8))
        self._staged = len(data)
        return byte_view(copy)

    def keep(self, watcher: Watcher | None = None) -> None:
        """Write what was staged last next; otherwise it is dropped."""
        end = self._used + self._staged
        if watcher is not None:
            self._watched.append((byte_view(self._buffer[self._used : end]), watcher))
        self._used, self._staged = end, 0

    def flush(self) -> None:
        """Wait until everything is written, and every watcher was called. Nothing follows it."""
        if self._flushed:
            return
        self._flushed = True
        whole = self._used // BLOCK * BLOCK
        self._submit(self._buffer, whole)
        while self._jobs:
            self._reuse()
        if self._direct:
            self._direct = self._fs.bypass_cache(self._handle, False)
        if self._used > whole:
            rest = byte_view(self._buffer[whole : self._used])
            self._fs.write_at(self._handle, self._position, rest)
        self._buffers.give(self._buffer)

    def _next_buffer(self) -> None:
        """Let a thread write the whole blocks of the buffer; what is left begins the next one."""
        whole = self._used // BLOCK * BLOCK
        rest = self._buffer[whole : self._used]
        self._submit(self._buffer, whole)
        self._buffer = self._free_buffer()
        np.copyto(self._buffer[: len(rest)], rest)
        self._used = len(rest)

    def _submit(self, buffer: Array, nbytes: int) -> None:
        job = self._pool.submit(self._write, buffer, nbytes, self._position, self._watched)
        self._jobs.append((job, buffer))
        self._position += nbytes
        self._watched = []

    def _free_buffer(self) -> Array:
        if len(self._jobs) >= _BUFFERS:
            self._reuse()
        return self._buffers.take(self._size)

    def _reuse(self) -> None:
        """Wait for the oldest write, whose buffer then is free."""
        job, buffer = self._jobs.popleft()
        job.result()
        if buffer is not self._buffer:
            self._buffers.give(buffer)

    def _write(self, buffer: Array, nbytes: int, position: int, watched: list[_Watched]) -> None:
        for copy, watcher in watched:
            watcher(copy)
        if nbytes == 0:
            return
        data, direct = byte_view(buffer[:nbytes]), self._direct
        try:
            self._fs.write_at(self._handle, position, data)
        except OSError as error:
            if not direct or error.errno not in NOT_DIRECT:
                raise
            self._direct = self._fs.bypass_cache(self._handle, False)
            self._fs.write_at(self._handle, position, data)


class NewFile(DirectWriter):
    """A file that is being written, its head last. The caller syncs it, and closes it."""

    def __init__(
        self,
        fs: FileSystem,
        handle: Handle,
        *,
        head_bytes: int,
        part_bytes: int,
        buffers: Buffers,
    ) -> None:
        super().__init__(fs, handle, head_bytes, part_bytes, buffers)
        self._head_bytes = head_bytes
        self.finished = False

    def finish(self, head: bytes) -> None:
        """Write the head: exactly as many bytes as were reserved."""
        assert len(head) == self._head_bytes, "so much room was left for it"
        self.flush()
        self._fs.write_at(self._handle, 0, head)
        self.finished = True
