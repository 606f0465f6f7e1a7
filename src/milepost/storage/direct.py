"""Writing a large file past the page cache, where that can be done, from a few threads.

The page cache costs a copy by the kernel, and the file then waits for its `sync`; a large
file that is written once is on the disk sooner without. The data is copied here too, into
buffers that are used again and again: that aligns it, and it makes sure that the bytes that
are digested are the bytes that are written, whatever becomes of the array meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np

from milepost.buffers import aligned
from milepost.digest import Buffer
from milepost.dtypes import Array, byte_view
from milepost.storage.filesystem import BLOCK, NOT_DIRECT, FileSystem, Handle

# As many of each keep two cores and a disk busy; the buffers are the memory that a save takes.
_THREADS = 3
_BUFFERS = 3

# Is given the copy of some data, in another thread, before that is written.
Watcher = Callable[[memoryview], None]
_Watched = tuple[memoryview, Watcher]


class DirectWriter:
    """Writes the data of a file, part after part, from `start` on: a multiple of `BLOCK`.

    Use it as a context manager: everything is written at the end of the block, not synced. If
    the block fails, nothing is written any more once it is left.
    """

    def __init__(self, fs: FileSystem, handle: Handle, start: int, buffer_bytes: int) -> None:
        """`buffer_bytes` is the size of the largest part, or more."""
        self._fs, self._handle, self._position = fs, handle, start
        self._direct = fs.bypass_cache(handle, True)
        self._size = -(-buffer_bytes // BLOCK) * BLOCK + BLOCK  # what is left over, and a part
        self._pool = ThreadPoolExecutor(_THREADS, "milepost-write")
        self._jobs: deque[tuple[Future[None], Array]] = deque()
        self._buffer, self._used = aligned(self._size, BLOCK), 0
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
                self._finish()
            else:
                self._pool.shutdown(cancel_futures=True)

    def add(self, data: Buffer, watcher: Watcher) -> memoryview:
        """Write `data` next. Returns its copy, which is valid until the next call."""
        if self._used + len(data) > self._size:
            self._next_buffer()
        copy = self._buffer[self._used : self._used + len(data)]
        np.copyto(copy, np.frombuffer(data, np.uint8))
        self._watched.append((byte_view(copy), watcher))
        self._used += len(data)
        return byte_view(copy)

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
        if len(self._jobs) < _BUFFERS:
            return aligned(self._size, BLOCK)
        job, buffer = self._jobs.popleft()
        job.result()
        return buffer

    def _finish(self) -> None:
        whole = self._used // BLOCK * BLOCK
        rest = byte_view(self._buffer[whole : self._used])
        self._submit(self._buffer, whole)
        for job, _ in self._jobs:
            job.result()
        if self._direct:
            self._direct = self._fs.bypass_cache(self._handle, False)
        if rest:
            self._fs.write_at(self._handle, self._position, rest)

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
