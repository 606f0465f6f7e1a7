"""CRC-32C, and the masked form in which tables and records of TensorFlow's store it.

A checksum that covers other checksums would lose strength, so a stored one is rotated and
shifted: https://github.com/google/leveldb/blob/main/util/crc32c.h
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from milepost.errors import MissingPackageError

_DELTA = 0xA282EAD8

# Of some bytes, and the checksum of those before them.
Checksum: TypeAlias = Callable[[bytes | bytearray | memoryview, int], int]


def checksum() -> Checksum:
    """The function that computes it.

    Raises:
        MissingPackageError: the package that has it is not installed.
    """
    try:
        import crc32c
    except ImportError:
        raise MissingPackageError(
            "the file's checksums need the package crc32c: pip install 'milepost[formats]'"
        ) from None
    function: Checksum = crc32c.crc32c
    return function


def masked(crc: int) -> int:
    """The form in which a checksum is stored."""
    return ((crc >> 15 | crc << 17) + _DELTA) & 0xFFFF_FFFF
