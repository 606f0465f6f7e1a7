"""A new file, written from its start on, of which a few bytes are known only later."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from milepost.digest import Buffer
from milepost.storage.filesystem import FileSystem, Handle
from milepost.storage.local import replacing


class Appender:
    """Where the next bytes of a file go."""

    def __init__(self, fs: FileSystem, handle: Handle) -> None:
        self._fs, self._handle = fs, handle
        self.position = 0

    def add(self, data: Buffer) -> None:
        """Write `data` next."""
        self._fs.write_at(self._handle, self.position, data)
        self.position += len(data)

    def patch(self, position: int, data: Buffer) -> None:
        """Write `data` over what was written before."""
        self._fs.write_at(self._handle, position, data)


@contextlib.contextmanager
def new_file(path: str, nbytes: int) -> Iterator[Appender]:
    """A file that takes its name, durably, once the block has written all of it.

    `nbytes` is about how long it will be. Raises what `replacing` does.
    """
    with replacing(path, nbytes) as (fs, handle):
        yield Appender(fs, handle)
