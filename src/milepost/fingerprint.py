"""Fingerprints: by what bytes in memory are known again, at the speed of memory.

XXH3 with 128 bits, of which the lower 64 are XXH3's own 64-bit hash for all but the shortest
inputs (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md), and so the checksum.
"""

from __future__ import annotations

from typing import Self

import xxhash

from milepost import digest
from milepost.digest import Buffer
from milepost.light import light

# Below this size a digest costs as little as a fingerprint, and the two hashes may differ.
LEAST_BYTES = 1 << 14
_SAMPLE_BYTES = 4096


@light
class Fingerprint:
    """The hash of the first bytes, which tells most changes, and that of all of them."""

    sample: int
    whole: int

    @classmethod
    def of(cls, data: Buffer) -> Self:
        """The fingerprint of `LEAST_BYTES` or more."""
        return cls(_sample(data), xxhash.xxh3_128_intdigest(data))

    def fits(self, data: Buffer) -> bool:
        """Whether these are still the same bytes."""
        return _sample(data) == self.sample and xxhash.xxh3_128_intdigest(data) == self.whole

    @property
    def checksum(self) -> str:
        """The checksum of the same bytes."""
        return f"xxh3:{self.whole & 0xFFFFFFFFFFFFFFFF:016x}"


def checked(data: Buffer) -> tuple[str, Fingerprint | None]:
    """The checksum of some bytes, and their fingerprint if they have one, in one pass."""
    if len(data) < LEAST_BYTES:
        return digest.checksum(data), None
    found = Fingerprint.of(data)
    return found.checksum, found


def _sample(data: Buffer) -> int:
    return xxhash.xxh3_64_intdigest(data[:_SAMPLE_BYTES])
