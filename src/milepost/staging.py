"""Copies of arrays on their way to the disk, in memory that is used again and again.

A save has two sides. One fills buffers with copies of live arrays, and is done when the last
is copied: then training may go on. The other digests and writes what the buffers hold, in the
same order, and gives them back. How many buffers there are is how much memory a save may
take: a few keep a disk busy while the caller waits; a background save may take as many as
the state fills; and where it may not, the copying waits for the writing.

It is the copy that is digested and written, so what is on the disk is what its digest says,
whatever becomes of the array meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from milepost import digest, fingerprint
from milepost.buffers import BLOCK, Buffers, copy
from milepost.digest import Buffer
from milepost.dtypes import Array, byte_view
from milepost.fingerprint import Fingerprint
from milepost.pieces import DigestedArray, Piece
from milepost.record import CHUNK_BYTES
from milepost.state import is_in_parts
from milepost.workers import Countdown, Workers

SLOT_BYTES = CHUNK_BYTES  # no piece is larger
FEW = 3  # so many slots keep two cores and a disk busy
_THREADS = 2
# Seconds for whom a background save has just let go: a thread that starts keeps Python's lock.
_HEAD_START = 0.001
_SMALL_BYTES = 1 << 16  # copied sooner than another thread gets hold of Python's lock

Part = tuple[DigestedArray, Piece]
Candidate = tuple[DigestedArray, Sequence[Piece]]
T = TypeVar("T")


class Slots:
    """Buffers for `SLOT_BYTES`, of which at most `most` are in use at a time.

    Each has a block more, so that data can begin anywhere in the first.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self._buffers = Buffers(most, BLOCK)
        self._used = 0
        self._changed = threading.Condition()

    def __reduce__(self) -> tuple[Any, ...]:
        return Slots, (self.most,)

    def take(self, stopped: threading.Event) -> Array | None:
        """A free buffer, as soon as there is one; None if none will come back."""
        with self._changed:
            while not self.has_free:
                if stopped.is_set():
                    return None
                self._changed.wait()
            self._used += 1
        return self._buffers.take(SLOT_BYTES + BLOCK)

    @property
    def has_free(self) -> bool:
        return self.most is None or self._used < self.most

    def give(self, slot: Array) -> None:
        """Take a buffer back."""
        self._buffers.give(slot)
        with self._changed:
            self._used -= 1
            self._changed.notify_all()

    def wake(self) -> None:
        """Let those who wait look whether there is any use in it."""
        with self._changed:
            self._changed.notify_all()


@dataclass(slots=True)
class Batch:
    """Pieces that follow one another in one slot, once `copied` is done.

    The first begins as far into a block as it will in the file, if all before it is written:
    then the slot can be written from where it is.
    """

    slots: Slots
    slot: Array
    begin: int
    parts: list[Part] = field(default_factory=list)
    sources: list[Buffer] = field(default_factory=list)
    used: int = 0
    copied: Future[None] | None = None
    # Once digested: as the parts, and by which to know each again.
    pieces: list[Piece] = field(default_factory=list)
    fingerprints: list[Fingerprint | None] = field(default_factory=list)

    def has_room(self, piece: Piece) -> bool:
        return self.begin + self.used + piece.nbytes <= len(self.slot)

    def add(self, array: DigestedArray, piece: Piece, data: Buffer) -> None:
        """A piece that is to be copied."""
        self.parts.append((array, piece))
        self.sources.append(data)
        self.used += piece.nbytes

    def copy(self) -> None:
        """Copy what was added since the last time."""
        position = self.begin + self.used - sum(map(len, self.sources))
        bytes_of_slot = byte_view(self.slot)
        for source in self.sources:
            end = position + len(source)
            if len(source) < _SMALL_BYTES:
                bytes_of_slot[position:end] = source
            else:  # without Python's lock
                copy(source, bytes_of_slot[position:end])
            position = end
        self.sources.clear()

    def digest(self) -> None:
        """Digest every piece."""
        data, position = byte_view(self.slot), self.begin
        for _, piece in self.parts:
            copy = data[position : position + piece.nbytes]
            checksum, found = fingerprint.checked(copy)
            self.pieces.append(piece.digested(_digest(copy), checksum))
            self.fingerprints.append(found)
            position += piece.nbytes

    def spans(self, wanted: Sequence[bool]) -> list[tuple[memoryview, Callable[[], None]]]:
        """The bytes of the pieces that are wanted, neighbours as one, to be given back once.

        Each comes with what to call when it is needed no more.
        """
        spans, position = [], self.begin
        for is_wanted, group in itertools.groupby(
            zip(wanted, self.pieces, strict=True), key=operator.itemgetter(0)
        ):
            start = position
            position += sum([piece.nbytes for _, piece in group])
            if is_wanted:
                spans.append(byte_view(self.slot[start:position]))
        done = Countdown(len(spans), self.free).one
        return [(span, done) for span in spans]

    def free(self) -> None:
        """Nobody needs the copies any more."""
        self.slots.give(self.slot)


class Staging:
    """The batches of one save, from the side that fills them to the side that writes them."""

    def __init__(self, begin: Callable[[], None]) -> None:
        """`begin` is called, maybe more than once, when the other side has something to do."""
        self._begin = begin
        self._batches: queue.SimpleQueue[Batch | BaseException | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._slots: list[Slots] = []
        self._filled = 0

    def fill(self, candidates: Iterable[Candidate], slots: Slots) -> None:
        """Copy pieces of arrays. They may be changed once this returns."""
        self._slots.append(slots)
        batch: Batch | None = None
        copies = []
        with Workers(_THREADS, "milepost-copy") as workers:

            def send(full: Batch) -> None:
                full.copied = workers.submit(full.copy)
                copies.append(full.copied)
                self._batches.put(full)

            for array, pieces in candidates:
                for piece, data in array.present(pieces):
                    if batch is None or not batch.has_room(piece):
                        if batch is not None:
                            send(batch)
                        if not slots.has_free:
                            self._begin()
                        slot = slots.take(self._stopped)
                        if slot is None:
                            return  # nobody writes any more, and says why
                        batch = Batch(slots, slot, self._filled % BLOCK)
                    batch.add(array, piece, data)
                    self._filled += piece.nbytes
                    if is_in_parts(array.array):
                        batch.copy()  # what is read in parts is there until the next is read
            if batch is not None:
                send(batch)
        for copied in copies:
            copied.result()

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more comes; or, with an error, what came is of no use."""
        self._batches.put(error)
        self._begin()

    def stop(self) -> None:
        """Nobody writes any more: do not wait for a slot."""
        self._stopped.set()
        for slots in list(self._slots):
            slots.wake()

    def digested(self) -> Generator[Batch, None, None]:
        """Every batch, digested, in the order in which they were filled.

        Raises the error with which the other side ended.
        """
        begun: deque[tuple[Batch, Future[None]]] = deque()
        open_ended = True
        with Workers(_THREADS, "milepost-digest") as workers:
            while begun or open_ended:
                idle = begun and self._batches.empty()
                if open_ended and len(begun) < _THREADS and not idle:
                    found = self._batches.get()
                    if isinstance(found, BaseException):
                        raise found
                    if found is None:
                        open_ended = False
                    else:
                        begun.append((found, workers.submit(_digest_copy, found)))
                    continue
                batch, job = begun.popleft()
                job.result()
                yield batch


class Transfer(Generic[T]):
    """A thread that writes what another fills, and its result. A context manager.

    If the block fails, or is interrupted, nothing is written any more once it is left.
    """

    def __init__(self, write: Callable[[Staging], T], *, copies_first: bool = False) -> None:
        """`copies_first` leaves all cores to the copying, for as long as there are free slots."""
        self._staging = Staging(self._begin)
        self._result: Future[T] = Future()
        self._filler: int | None = threading.get_ident()
        self._later: Callable[[], None] | None = None
        self._copies_first = copies_first
        self._has_begun = False
        # No daemon: the interpreter waits for it before it exits.
        # It is given what to write, and lets go of it: the result may be kept for long.
        self._thread = threading.Thread(target=self._run, args=(write,), name="milepost-save")

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._thread.start()

    def _run(self, write: Callable[[Staging], T]) -> None:
        if not self._result.set_running_or_notify_cancel():
            return
        if self._copies_first:
            time.sleep(_HEAD_START)
        later, self._later = self._later, None
        if later is not None:
            try:
                threading.Thread(target=later, name="milepost-copy").start()
            except RuntimeError as error:  # the system allows no more
                self._staging.end(error)
        try:
            self._result.set_result(write(self._staging))
        except BaseException as error:
            self._staging.stop()
            self._result.set_exception(error)

    def fill(self, candidates: Iterable[Candidate], slots: Slots) -> None:
        """Copy pieces of arrays. They may be changed once this returns."""
        if not self._copies_first:
            self._begin()
        self._staging.fill(candidates, slots)

    def fill_later(self, candidates: Sequence[Candidate], slots: Slots) -> None:
        """Copy pieces that can never change, in a thread of their own; nothing follows them."""
        if not candidates:
            self.end()
            return

        def fill() -> None:
            try:
                self._staging.fill(candidates, slots)
                self._staging.end()
            except BaseException as error:
                self._staging.end(error)

        self._filler = None
        if self._has_begun:
            threading.Thread(target=fill, name="milepost-copy").start()
        else:
            self._later = fill
            self._begin()

    def end(self) -> None:
        """Nothing more is to be copied."""
        self._filler = None
        self._staging.end()

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._result.done()

    @property
    def cancelled(self) -> bool:
        """Whether it was abandoned before it had begun."""
        return self._result.cancelled()

    @property
    def failed(self) -> bool:
        """Whether it has ended without a result."""
        return self.done and (self.cancelled or self._result.exception() is not None)

    @property
    def is_filled_here(self) -> bool:
        """Whether it waits for this very thread, which then must not wait for it."""
        return self._filler == threading.get_ident()

    def result(self) -> T:
        """What the writing returned or raised, as soon as it has."""
        return self._result.result()

    def settle(self) -> None:
        """Wait until it has ended, however."""
        # First for the result: whoever was interrupted in a `join` finds the next one return at
        # once, whatever the thread still does (Python before 3.13).
        with contextlib.suppress(CancelledError):
            self._result.exception()
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.abandon(error)

    def abandon(self, error: BaseException) -> None:
        """Write nothing more, because of this error, and wait until that is so."""
        self._filler = None  # whoever is interrupted here waits again
        if not self._result.cancel():  # it has begun
            self._staging.end(error)
            self._staging.stop()
            self.settle()


def _digest_copy(batch: Batch) -> None:
    assert batch.copied is not None, "it was sent when its copy was ordered"
    batch.copied.result()
    batch.digest()


def _digest(data: Buffer) -> str:
    return digest.digest(data, threads=1)  # another batch has the other core
