"""Formats that are a folder of files: what lies in it, and nothing outside of it."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

from milepost.errors import DamagedError, PathNotFoundError, UntrustedError
from milepost.limits import shown
from milepost.source import read_exactly
from milepost.storage.local import FileSource, open_file, translated

# Some 80,000 leaves: more than any model has that is known. What Python makes of a hostile
# text is many times its size, and worst of all with brackets in it.
_MAX_JSON_BYTES, _MAX_BRACKETS = 16 << 20, 700_000


class Folder:
    """A folder whose files name one another. Whatever the name, no path leads out of it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._real = os.path.realpath(path)

    def __repr__(self) -> str:
        return self.path

    def names(self, below: str = "") -> list[str]:
        """What is in it, or in a folder of it, in order; nothing, if that is no folder."""
        path = self.path_of(below) if below else self.path
        with translated(path, "list"):
            return sorted(os.listdir(path)) if os.path.isdir(path) else []

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return os.path.isfile(self.path_of(name))

    def inside(self, name: str) -> Folder:
        """The folder of that name in it."""
        return Folder(self.path_of(name))

    def path_of(self, name: str) -> str:
        """The path of a file of it.

        Raises:
            UntrustedError: the name, or a symbolic link, leads out of the folder.
        """
        parts = name.split("/")
        if not set(parts).isdisjoint(("", ".", "..")) or "\\" in name or "\x00" in name:
            raise UntrustedError(f"{self.path} names {shown(name)}, which is no file inside of it")
        path = os.path.join(self.path, *parts)
        if not os.path.realpath(path).startswith(os.path.join(self._real, "")):
            raise UntrustedError(f"{path} is a link that leads out of {self.path}")
        return path

    def open(self, name: str) -> FileSource:
        """A file of it, opened for reading.

        Raises:
            UntrustedError: as `path_of`, or it is no regular file.
            DamagedError: there is none.
        """
        path = self.path_of(name)
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise UntrustedError(f"{path} is no regular file")
            return open_file(path)
        except (FileNotFoundError, PathNotFoundError, NotADirectoryError):
            raise DamagedError(
                f"{path} is missing: put back the files that were saved together"
            ) from None

    def read(self, name: str, offset: int, length: int) -> bytes:
        """These bytes of a file of it; raises what `open` and `read_exactly` do."""
        source = self.open(name)
        try:
            return bytes(read_exactly(source, offset, length))
        finally:
            source.close()

    def read_all(self, name: str, most: int) -> bytes:
        """The whole of a file of it.

        Raises:
            DamagedError: there is none, or it has more than `most` bytes.
        """
        source = self.open(name)
        try:
            if source.size > most:
                raise DamagedError(f"{source.name} has {source.size:,} bytes, more than {most:,}")
            return bytes(read_exactly(source, 0, source.size))
        finally:
            source.close()

    def read_json(self, name: str) -> Any:
        """What a file of it says.

        Raises:
            DamagedError: it is no JSON, or too large to be read safely.
        """
        return parse_json(self.read_all(name, _MAX_JSON_BYTES), self.path_of(name))


def parse_json(text: bytes, name: str) -> Any:
    """What a text says.

    Raises:
        DamagedError: it is no JSON, or has too many brackets to be read safely.
    """
    try:
        if text.count(b"[") + text.count(b"{") > _MAX_BRACKETS:
            raise ValueError("too many brackets")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{name} is damaged: it is no JSON ({error})") from None
