"""Writing a large file past the page cache, where that can be done, from a few threads.

The page cache costs a copy by the kernel, and the file then waits for its `sync`; a large
file that is written once is on the disk sooner without. Data that lies as far from a block's
boundary in memory as it goes to in the file is written from where it is, but for what it has
of the first block and the last; everything else passes through buffers that are aligned.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Self

import numpy as np

from milepost.buffers import BLOCK, Buffers, address
from milepost.dtypes import Array, byte_view
from milepost.storage.filesystem import NOT_DIRECT, FileSystem, Handle
from milepost.workers import Countdown, Workers

_THREADS = 2  # more do not make a disk faster
_BUFFERS = 2
BUFFER_BYTES = 4 << 20  # a multiple of `BLOCK`
PART_BYTES = 8 << 20  # of what one thread writes at a time; a multiple of `BLOCK`, too


def buffers() -> Buffers:
    """What one writer after another can use."""
    return Buffers(_BUFFERS, BLOCK)


class DirectWriter:
    """Writes the data of a file, part after part, from `start` on: a multiple of `BLOCK`.

    Use it as a context manager: everything is written at the end of the block, not synced. If
    the block fails, nothing is written any more once it is left.
    """

    def __init__(
        self, fs: FileSystem, handle: Handle, start: int, spare: Buffers | None = None
    ) -> None:
        self._fs, self._handle, self._position = fs, handle, start
        self._direct = fs.bypass_cache(handle, True)
        self._spare = spare or buffers()
        self._pool = Workers(_THREADS, "milepost-write")
        self._jobs: deque[Future[None]] = deque()
        self._own: deque[Future[None]] = deque()  # those of the jobs that write a buffer
        self._buffer: Array | None = None
        self._used = 0
        self._error: BaseException | None = None
        self._flushed = False

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

    def append(self, data: memoryview, done: Callable[[], object]) -> None:
        """Write `data` next; `done` is called when it is needed no more."""
        self._raise_error()
        while self._jobs and self._jobs[0].done():
            self._jobs.popleft().result()
        end = self._position + self._used
        head = -end % BLOCK
        whole = (len(data) - head) // BLOCK * BLOCK
        if whole <= 0 or (address(data) - end) % BLOCK:
            self._copy(data)
            done()
            return
        self._copy(data[:head])
        self._submit_buffer()
        self._copy(data[head + whole :])  # now: once the rest is written, `data` may change
        self._submit(data[head : head + whole], done)

    def flush(self) -> None:
        """Wait until everything is written. Nothing follows it."""
        if self._flushed:
            return
        self._flushed = True
        rest = memoryview(b"")
        if self._buffer is not None:
            whole = self._used // BLOCK * BLOCK
            rest = byte_view(self._buffer[whole : self._used])
            if whole:
                self._submit(byte_view(self._buffer[:whole]), lambda: None)
        while self._jobs:
            self._jobs.popleft().result()
        self._raise_error()
        if self._direct:
            self._direct = self._fs.bypass_cache(self._handle, False)
        if rest:
            self._fs.write_at(self._handle, self._position, rest)
        if self._buffer is not None:
            self._spare.give(self._buffer)

    def _raise_error(self) -> None:
        """What a write has failed with, in whatever thread: nothing is written any more."""
        if self._error is not None:
            raise self._error

    def _copy(self, data: memoryview) -> None:
        while data:
            if self._buffer is None:
                self._buffer, self._used = self._free_buffer(), 0
            part = data[: len(self._buffer) - self._used]
            target = self._buffer[self._used : self._used + len(part)]
            np.copyto(target, np.frombuffer(part, np.uint8))
            self._used += len(part)
            data = data[len(part) :]
            if self._used == len(self._buffer):
                self._submit_buffer()

    def _submit_buffer(self) -> None:
        """Write what was copied: whole blocks."""
        if self._buffer is None:
            return
        full, used = self._buffer, self._used
        self._buffer, self._used = None, 0
        self._submit(byte_view(full[:used]), functools.partial(self._spare.give, full))
        self._own.append(self._jobs[-1])

    def _free_buffer(self) -> Array:
        if len(self._own) >= _BUFFERS:
            self._own.popleft().result()
        return self._spare.take(BUFFER_BYTES)[:BUFFER_BYTES]

    def _submit(self, data: memoryview, done: Callable[[], object]) -> None:
        """Let the threads write `data`, all of them at once if there is enough of it."""
        parts = range(0, len(data), PART_BYTES)
        finished = Countdown(len(parts), done).one
        for start in parts:
            part = data[start : start + PART_BYTES]
            self._jobs.append(self._pool.submit(self._write, part, self._position, finished))
            self._position += len(part)

    def _write(self, data: memoryview, position: int, done: Callable[[], object]) -> None:
        try:
            if self._error is None:
                self._write_at(position, data)
        except BaseException as error:
            self._error = error
        finally:
            done()  # whatever has failed: somebody may wait for the memory

    def _write_at(self, position: int, data: memoryview) -> None:
        direct = self._direct
        try:
            self._fs.write_at(self._handle, position, data)
        except OSError as error:
            if not direct or error.errno not in NOT_DIRECT:
                raise
            self._direct = self._fs.bypass_cache(self._handle, False)
            self._fs.write_at(self._handle, position, data)


class NewFile(DirectWriter):
    """A file that is being written, its head last. The caller syncs it, and closes it."""

    def __init__(self, fs: FileSystem, handle: Handle, head_bytes: int, spare: Buffers) -> None:
        super().__init__(fs, handle, head_bytes, spare)
        self._head_bytes = head_bytes
        self.finished = False

    def finish(self, head: bytes) -> None:
        """Write the head: exactly as many bytes as were reserved."""
        assert len(head) == self._head_bytes, "so much room was left for it"
        self.flush()
        self._fs.write_at(self._handle, 0, head)
        self.finished = True
