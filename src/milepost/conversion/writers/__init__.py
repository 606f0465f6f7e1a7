"""The formats that `convert` writes, one module each. None imports a framework.

Each module has these:

    NAME                          what messages call the format
    KEEPS_METADATA                whether the source's metadata has a place in it
    holds(dtype) -> bool          whether arrays of a dtype can be written, to the last bit
    keeps(name, value) -> bool    whether a plain value can
    write(path, content, options) -> Written
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from milepost.conversion.content import Content
from milepost.state import Plain


@dataclass(frozen=True, slots=True)
class Options:
    """How a file is written.

    Attributes:
        overwrite: whether what is at the path gives way, once the new file is whole.
        shard_size: write a folder of files of at most so many bytes.
        step: the step's number in a store; the next if None.
    """

    overwrite: bool = False
    shard_size: int | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes:
        files: their paths.
        notes: what else there is to say.
    """

    files: tuple[str, ...]
    notes: tuple[str, ...] = ()


class Writer(Protocol):
    """A module that writes a format."""

    NAME: str
    KEEPS_METADATA: bool

    def holds(self, dtype: str) -> bool: ...

    def keeps(self, name: str, value: Plain) -> bool: ...

    def write(self, path: str, content: Content, options: Options) -> Written: ...
