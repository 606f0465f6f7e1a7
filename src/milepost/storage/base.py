"""What a store asks of the place where its bytes live.

Objects are named by a path relative to the storage (`"data/0007-k3f9.safetensors"`). They
are written once and never changed. A storage appears in three shapes: a local folder
(`local`), memory (`memory`), and, where either is made to fail on purpose, `faults`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias

from milepost.digest import Buffer
from milepost.source import ByteSource

# Of one name, equal before and after if it is still the same object.
Stamp: TypeAlias = Hashable


class NewObject(Protocol):
    """An object that is being written: its data first, part after part, its head last."""

    def append(self, data: memoryview, done: Callable[[], object]) -> None:
        """Write a part after those before; `done` is called when `data` is needed no more."""

    def finish(self, head: bytes) -> None:
        """Write the head: exactly as many bytes as were reserved. Nothing follows it."""


class Storage(Protocol):
    """A place for a store.

    Durable means: still there, whole, after the power fails at any later moment.
    """

    @property
    def name(self) -> str:
        """What messages call it: its path."""

    def exists(self) -> bool:
        """Whether the place itself is there, a store or not."""

    def prepare(self) -> None:
        """Make the place, durably, so that objects can be put into it."""

    def list(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none if there is no such folder.

        What a writer has begun and not finished is never among them.
        """

    def last(self, folder: str) -> str | None:
        """The last of `list`, for less; None if there is none."""

    def stamps(self, folder: str) -> Mapping[str, Stamp]:
        """As `list`, with a stamp for each name, which tells whether it was replaced since.

        Some that are removed or added meanwhile may be missing.
        """

    def change(self, folder: str) -> Stamp | None:
        """What differs once a name in a folder is added, removed or replaced; None if not known.

        A hint, for what may be wrong: of two changes within milliseconds the second may not show.
        """

    def stamp(self, name: str) -> Stamp | None:
        """The stamp of one object, as by `stamps`; None if there is none of that name."""

    def mark(self, folder: str) -> str | None:
        """Give a folder a mark, unless it has one; the mark, or None if it cannot have any.

        It keeps the mark for exactly as long as no name in it is added, removed or replaced, by
        whomever. So names that are listed once it has one are its names for as long as it has.
        For writers: it may change what is there.
        """

    def marked(self, folder: str) -> str | None:
        """The mark that a folder has now; None if it has none."""

    def open(self, name: str) -> ByteSource:
        """Open an object for reading. It stays readable if it is deleted meanwhile.

        Raises:
            PathNotFoundError: there is none of that name.
        """

    def write(
        self, name: str, parts: Iterable[Buffer], nbytes: int, since: str | None = None
    ) -> str | None:
        """Write a new object durably: afterwards it is there whole, or not at all.

        `nbytes` is the length of all parts together; a storage that knows that it does not
        fit says so before it begins.

        Returns a new mark of the object's folder, if this object is the only change to its
        names since it had the mark `since`; None if not, or if that cannot be known.

        Raises:
            FileExistsError: there is one of that name already; it is left as it is.
            StorageError: it cannot be written.
        """

    def replace(self, name: str, parts: Iterable[Buffer], nbytes: int) -> None:
        """As `write`, but an object of that name gives way to the new one in one instant."""

    def create(self, name: str, head_bytes: int, nbytes: int) -> AbstractContextManager[NewObject]:
        """A new object, as by `write`, whose block says part by part what is in it.

        It is there, whole and durable, when the block ends, and not at all if the block fails
        or does not `finish` it.

        Arguments:
            name: a name that no object has.
            head_bytes: the length of the head, for which room is left: a multiple of
                `buffers.BLOCK`.
            nbytes: the most bytes that it may have, with the head.
        """

    def note(self, name: str, data: bytes) -> None:
        """Write an object that nobody needs, or another in its place: at once, or not at all.

        It is not durable, and that it cannot be written is no error.
        """

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects durably. One that is gone already is no error."""

    def lock(self, *, exclusive: bool, wait: bool = True) -> AbstractContextManager[bool]:
        """Hold the storage among other writers, or alone.

        The value is whether the lock is held: False if `wait` is False and another holds it.
        A writer that dies lets go of it.
        """

    def remove_unfinished(self) -> None:
        """Remove what dead writers left behind. Only while holding the exclusive lock."""
