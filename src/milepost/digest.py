"""Digests and checksums: strings that name their algorithm, `"blake3:<hex>"`.

The digest (BLAKE3, 256 bits) is the identity of bytes: deduplication and `verify` rest on
it. The checksum (XXH3, 64 bits) is what every read checks, because it costs next to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import blake3
import xxhash

Buffer: TypeAlias = bytes | bytearray | memoryview

# Below this size starting threads costs more than they save.
_THREADED_BYTES = 1 << 20


def digest(data: Buffer, threads: int | None = None) -> str:
    """The BLAKE3 digest of `data`: `"blake3:"` and 64 hexadecimal digits.

    `threads` is by how many threads at most; not given, as many as there are cores.
    """
    if threads is None:
        threads = blake3.blake3.AUTO if len(data) >= _THREADED_BYTES else 1
    if threads == 1:  # its default, and saying it costs a small array a fifth more
        return "blake3:" + blake3.blake3(data).hexdigest()
    return "blake3:" + blake3.blake3(data, max_threads=threads).hexdigest()


def checksum(data: Buffer) -> str:
    """The XXH3 (64-bit) checksum of `data`: `"xxh3:"` and 16 hexadecimal digits."""
    return "xxh3:" + xxhash.xxh3_64_hexdigest(data)


def checksum_of(parts: Iterable[Buffer]) -> str:
    """The checksum of data that comes in parts."""
    running = Running("xxh3")
    for part in parts:
        running.update(part)
    return running.value


class Running:
    """The digest or checksum, by the algorithm that `like` names, of data that comes in parts."""

    def __init__(self, like: str) -> None:
        """Raises KeyError if the algorithm is unknown; see `is_known`."""
        self._name = like.partition(":")[0]
        self._state = _RUNNING[self._name]()

    def update(self, data: Buffer) -> None:
        self._state.update(data)

    @property
    def value(self) -> str:
        """Of all data so far."""
        return f"{self._name}:{self._state.hexdigest()}"


_RUNNING: dict[str, Callable[[], Any]] = {"blake3": blake3.blake3, "xxh3": xxhash.xxh3_64}
_ALGORITHMS: dict[str, Callable[[Buffer], str]] = {"blake3": digest, "xxh3": checksum}
_WELL_FORMED = re.compile(r"[a-z][a-z0-9-]*:[0-9a-f]+")
_USABLE = re.compile(rf"({'|'.join(_ALGORITHMS)}):[0-9a-f]+")


def is_well_formed(value: object) -> bool:
    """Whether `value` looks like a digest or checksum, of whatever algorithm."""
    return isinstance(value, str) and _WELL_FORMED.fullmatch(value) is not None


def is_known(value: str) -> bool:
    """Whether `value` names an algorithm that this version can compute."""
    return value.partition(":")[0] in _ALGORITHMS


def is_usable(value: object) -> bool:
    """Whether `value` is both."""
    return isinstance(value, str) and _USABLE.fullmatch(value) is not None


def matches(value: str, data: Buffer) -> bool:
    """Whether `data` has the digest or checksum `value`, by the algorithm that it names.

    Raises:
        KeyError: the algorithm is unknown; see `is_known`.
    """
    return _ALGORITHMS[value.partition(":")[0]](data) == value
