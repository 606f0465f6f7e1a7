"""The tensors in the data files of a TensorFlow checkpoint, checked and read.

A checksum covers a whole tensor. It is compared when a part of the tensor is first read, in
one pass over it; later parts cost no more than their own bytes.

https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/util/tensor_bundle/tensor_bundle.cc
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from milepost import dtypes
from milepost.buffers import aligned
from milepost.dtypes import Array
from milepost.encodings.crc32c import checksum, masked
from milepost.encodings.strided import c_strides, read_strided
from milepost.encodings.varints import decode
from milepost.errors import DamagedError
from milepost.formats.tensorflow_bundle import Entry
from milepost.record import Box
from milepost.source import ByteSource, fill_exactly, read_exactly

_PIECE = 4 << 20
# A longest number is of ten bytes. So many strings lie between two places that are remembered.
_LONGEST, _STEP = 10, 1 << 15
_UINT32 = 0xFFFF_FFFF


class Checked:
    """The bytes of one tensor, which are compared with their checksum once. Threads share it."""

    def __init__(self, leaf: str, source: ByteSource, entry: Entry, big_endian: bool) -> None:
        self.leaf = leaf
        self.source = source
        self.entry = entry
        self.big_endian = big_endian
        self._lock = threading.Lock()
        self._sound = False

    def check(self) -> None:
        """Compare the checksum, unless that was done before; DamagedError if it is another."""
        with self._lock:
            if not self._sound:
                self._check()
                self._sound = True

    def _check(self) -> None:
        self._compare(self._streamed(self.entry.offset, self.entry.size, 0), self.entry.crc)

    def _streamed(self, position: int, size: int, crc: int) -> int:
        buffer = memoryview(bytearray(min(_PIECE, size)))
        for start in range(0, size, _PIECE):
            part = buffer[: min(_PIECE, size - start)]
            fill_exactly(self.source, position + start, part)
            crc = checksum()(part, crc)
        return crc

    def _compare(self, crc: int, expected: int) -> None:
        if masked(crc) != expected:
            start = self.entry.offset
            raise self.damaged(
                f"bytes {start} to {start + self.entry.size} are damaged: expected the checksum "
                f"{expected:08x}, found {masked(crc):08x}; restore it from a backup"
            )

    def damaged(self, problem: str) -> DamagedError:
        return DamagedError(f"{self.source.name}, leaf {self.leaf!r}: {problem}")


class Numbers(Checked):
    """A tensor of numbers, in C order."""

    def __init__(
        self, leaf: str, source: ByteSource, entry: Entry, big_endian: bool, dtype: str
    ) -> None:
        super().__init__(leaf, source, entry, big_endian)
        self._dtype = dtypes.numpy_dtype(dtype)

    def read(self, box: Box) -> Array:
        whole = all(part == (0, size) for part, size in zip(box, self.entry.shape, strict=True))
        if whole and self.big_endian == (sys.byteorder == "big"):
            return self._read_whole()
        self.check()
        stored = self._stored()
        strides = c_strides(self.entry.shape, stored.itemsize)
        part = read_strided(self.source, self.entry.offset, stored, strides, box)
        # A view of its own shape: of no axes, NumPy views only what has the same size.
        return part.view(self._dtype)

    def _read_whole(self) -> Array:
        """All of it, checked on the way."""
        memory = aligned(self.entry.size)
        buffer, crc = memoryview(memory.data), 0
        for start in range(0, len(buffer), _PIECE):
            part = buffer[start : start + _PIECE]
            fill_exactly(self.source, self.entry.offset + start, part)
            crc = checksum()(part, crc)
        self._compare(crc, self.entry.crc)
        self._sound = True
        return memory.view(self._dtype).reshape(self.entry.shape)

    def _stored(self) -> np.dtype[Any]:
        """The dtype in the file; what NumPy has no big-endian form of is an integer there."""
        known = self._dtype.isbuiltin == 1
        plain = self._dtype if known else np.dtype(f"u{self._dtype.itemsize}")
        return plain.newbyteorder(">" if self.big_endian else "<")


class Strings(Checked):
    """A tensor of strings: their lengths, the checksum of these, and their bytes."""

    def __init__(
        self, leaf: str, source: ByteSource, entry: Entry, big_endian: bool, count: int
    ) -> None:
        super().__init__(leaf, source, entry, big_endian)
        self._count = count
        # Where each `_STEP` of strings begins: that of the first one's length, and its bytes.
        self._marks: list[tuple[int, int]] = []

    def whole(self) -> bytes:
        """The only string of a tensor without axes."""
        [text] = self.flat(0, 1)
        return bytes(text)

    def flat(self, first: int, stop: int) -> Array:
        """The strings from one up to another, as if the tensor had one axis."""
        self.check()
        result = np.empty(stop - first, object)
        for step in range(first // _STEP, -(-stop // _STEP)):
            begin, end = max(first, step * _STEP), min(stop, (step + 1) * _STEP)
            result[begin - first : end - first] = self._texts(step, begin, end)
        return result

    def _texts(self, step: int, begin: int, end: int) -> list[bytes]:
        position, start = self._marks[step]
        lengths, _ = self._lengths(position, end - step * _STEP)
        skipped = begin - step * _STEP
        start += int(lengths[:skipped].sum())
        ends = np.cumsum(lengths[skipped:]).tolist()
        data = bytes(read_exactly(self.source, start, ends[-1]))
        return [data[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]

    def _check(self) -> None:
        entry = self.entry
        if not self._count and not entry.size:
            return
        position, total, crc, marks = entry.offset, 0, 0, []
        for first in range(0, self._count, _STEP):
            marks.append((position, total))
            lengths, position = self._lengths(position, min(_STEP, self._count - first))
            crc = checksum()(self._as_numbers(lengths), crc)
            total += int(lengths.sum())
            if total > entry.size:
                break
        data = position + 4
        if data + total != entry.offset + entry.size:
            raise self.damaged(
                f"strings of {total} bytes and their lengths do not make up {entry.size} bytes"
            )
        found = read_exactly(self.source, position, 4)
        self._compare(crc, int.from_bytes(found, "big" if self.big_endian else "little"))
        crc = checksum()(found, crc)
        self._compare(self._streamed(data, total, crc), entry.crc)
        self._marks = [(position, data + start) for position, start in marks]

    def _lengths(self, position: int, count: int) -> tuple[npt.NDArray[np.uint64], int]:
        """The lengths of so many strings from a place on, and where that ended."""
        end = self.entry.offset + self.entry.size
        size = min(count * _LONGEST, end - position)
        raw = read_exactly(self.source, position, size)
        ends = np.flatnonzero(np.frombuffer(raw, np.uint8) < 0x80)
        if len(ends) < count:
            raise self.damaged(f"it has fewer than its {self._count} strings")
        used = int(ends[count - 1]) + 1
        lengths = decode(raw[:used], 0, count, self.source.name)
        if int(lengths.max()) > self.entry.size:
            raise self.damaged(f"a string of {lengths.max()} bytes in {self.entry.size}")
        return lengths, position + used

    def _as_numbers(self, lengths: npt.NDArray[np.uint64]) -> bytes:
        """Lengths as their checksum covers them: in four bytes each, or eight if it takes that."""
        order = ">" if self.big_endian else "<"
        if int(lengths.max()) <= _UINT32:
            return lengths.astype(f"{order}u4").tobytes()
        return b"".join(
            np.array(length, f"{order}u{4 if length <= _UINT32 else 8}").tobytes()
            for length in lengths.tolist()
        )
