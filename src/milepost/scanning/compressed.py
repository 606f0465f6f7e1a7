"""What inflates a compressed file, by how it begins."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Protocol


class Inflater(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def inflater_for(start: bytes) -> Callable[[], Inflater] | None:
    """What makes an inflater for a file that begins so; None if it is not compressed."""
    if start.startswith(b"\x1f\x8b"):
        return lambda: zlib.decompressobj(31)
    if start.startswith(b"BZh"):
        return bz2.BZ2Decompressor
    if start.startswith((b"\xfd7zXZ\x00", b"\x5d\x00")):
        return lambda: lzma.LZMADecompressor(memlimit=256 << 20)
    if start[:2] in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"):
        return zlib.decompressobj
    return None


def inflated(make: Callable[[], Inflater], packed: bytes, limit: int) -> tuple[bytes, bool]:
    """What bytes unpack to, `limit` of it at most, and whether that is all and nothing is broken.

    Streams that follow one another are one file: Python's own readers take them so.
    """
    parts: list[bytes] = []
    left = limit
    try:
        while packed and left > 0:
            inflater = make()
            parts.append(inflater.decompress(packed, left))
            left -= len(parts[-1])
            packed = inflater.unused_data.lstrip(b"\0")  # as padding
            if not inflater.eof:
                return b"".join(parts), False
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
        return b"".join(parts), False
    return b"".join(parts), not packed
