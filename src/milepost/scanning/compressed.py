"""What inflates a compressed file, by how it begins."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Protocol


class Inflater(Protocol):
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def inflater_for(start: bytes) -> Callable[[], Inflater] | None:
    """What makes an inflater for a file that begins so; None if it is not compressed."""
    if start.startswith(b"\x1f\x8b"):
        return lambda: zlib.decompressobj(31)
    if start.startswith(b"BZh"):
        return bz2.BZ2Decompressor
    if start.startswith((b"\xfd7zXZ\x00", b"\x5d\x00\x00")):
        return _Lzma
    if start[:2] in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"):
        return zlib.decompressobj
    return None


class _Lzma:
    """As the others: its own error is a ValueError."""

    def __init__(self) -> None:
        self._inner = lzma.LZMADecompressor(memlimit=256 << 20)

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        try:
            return self._inner.decompress(data, max_length)
        except lzma.LZMAError as error:
            raise ValueError(str(error)) from None
