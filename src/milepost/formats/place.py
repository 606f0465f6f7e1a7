"""What lies at a path, as far as it takes to tell which format it is of."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from dataclasses import dataclass

from milepost.errors import PathNotFoundError
from milepost.source import read_exactly
from milepost.storage.local import FileSource, open_file

# Enough for every format's mark but an HDF5 file's behind a user block, and long first names.
_START = 512
# A TensorFlow checkpoint has no file of its own name: `ckpt-7` is `ckpt-7.index` and its data.
_INDEX = ".index"


@dataclass(frozen=True, slots=True)
class Place:
    """A file with its first bytes and last ones, or a folder with the names in it.

    `path` is absolute. A format is recognised by `start`, `end` and `names`, never by `path`.
    """

    path: str
    size: int  # of the file; 0 for a folder
    start: bytes  # empty for a folder
    end: bytes
    names: Collection[str]  # of what is in the folder; empty for a file
    is_folder: bool

    def open(self) -> FileSource:
        """The file, opened for reading."""
        return open_file(self.path)

    def head(self, length: int) -> bytes:
        """The first `length` bytes of the file, or all of one that is shorter."""
        length = min(length, self.size)
        if length <= len(self.start):
            return self.start[:length]
        with contextlib.closing(self.open()) as source:
            return bytes(read_exactly(source, 0, length))

    def beside(self, name: str) -> str:
        """The path of `name` in the folder, or in the folder of the file."""
        folder = self.path if self.is_folder else os.path.dirname(self.path)
        return os.path.join(folder, name)


def place_at(path: str) -> Place:
    """What lies at an absolute path.

    Raises:
        PathNotFoundError: nothing does.
        StorageError: it cannot be read.
    """
    if not os.path.exists(path):
        if not os.path.exists(path + _INDEX):
            raise PathNotFoundError(f"{path} does not exist")
        path += _INDEX
    if os.path.isdir(path):
        return Place(path, 0, b"", b"", frozenset(os.listdir(path)), is_folder=True)
    source = open_file(path)
    try:
        length = min(_START, source.size)
        start = bytes(read_exactly(source, 0, length))
        end = bytes(read_exactly(source, source.size - length, length))
        return Place(path, source.size, start, end, frozenset(), is_folder=False)
    finally:
        source.close()
