"""Files made wrong at random, and what must be true of opening them: the long sweep of a format."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from milepost.errors import MilepostError
from milepost.formats import formats
from milepost.opening import open as open_path
from milepost.snapshot import Snapshot
from milepost.state import LeafSpec
from milepost.testing.watch import watched

# What breaks readers: ends of ranges, signs, wraps.
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
_LARGE = (2**33, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
# Sound leaves of a changed file may claim to be large; these are not read.
_MOST_READ = 1 << 24


def mutated(data: bytes, chance: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """`data` with one to four changes: flips, numbers, cuts, repeats, parts of other files."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        _change(changed, chance, others)
    return bytes(changed)


def _change(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> None:
    # Headers lie at the ends; most of the middle is numbers, where any change is sound.
    length = len(data)
    ends = chance.random() < 0.7
    place = chance.randrange(length + 1)
    if ends:
        near = min(length, int(chance.expovariate(1 / 300)))
        place = near if chance.random() < 0.6 else length - near
    match chance.randrange(8):
        case 0 | 1:
            data[place : place + 1] = bytes([chance.randrange(256)])
        case 2:
            if place < length:
                data[place] ^= 1 << chance.randrange(8)
        case 3:
            width = chance.choice((1, 2, 4, 8))
            number = chance.choice(_NUMBERS + _LARGE) & (256**width - 1)
            data[place : place + width] = number.to_bytes(width, chance.choice(("little", "big")))
        case 4:
            del data[place : place + chance.choice((1, 2, 4, 8, 64))]
        case 5:
            piece = data[place : place + chance.choice((1, 4, 16, 64))]
            data[place:place] = piece * chance.choice((1, 2, 50))
        case 6:
            other = chance.choice([*others, bytes(data)])
            start = chance.randrange(len(other) + 1)
            data[place : place + 16] = other[start : start + 16]
        case _:
            if chance.random() < 0.3:
                del data[place:]


def read_through(path: Path) -> bool:
    """Open what lies at a path and read every leaf of it; returns whether it was sound.

    Only errors of ours may be raised on the way; every array must be of its dtype and shape.
    """
    try:
        opened = open_path(path)
    except MilepostError:
        return False
    assert isinstance(opened, Snapshot)
    sound = True
    with opened:
        opened.facts()
        for name in opened:
            spec = opened.spec(name)
            if spec.shape is not None and opened.record(name).nbytes > _MOST_READ:  # type: ignore[union-attr]
                continue
            try:
                value = opened.read(name)
            except MilepostError:
                sound = False
            else:
                _check(spec, value)
    return sound


def _check(spec: LeafSpec, value: object) -> None:
    if spec.shape is not None:
        assert isinstance(value, np.ndarray)
        assert value.shape == spec.shape
        assert value.size == math.prod(spec.shape)


def fuzz(path: Path, executions: int, seed: int) -> int:
    """Read a file, or a folder, changed at random so many times; returns how often it was sound.

    One file is changed at a time, and is as it was afterwards. Each time it is watched that
    nothing but reading takes place, within the time and memory that a reader may take.
    """
    chance = random.Random(seed)
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    originals = {file: file.read_bytes() for file in files}
    sound = 0
    list(formats())  # looks for those of other packages, once
    for number in range(executions):
        file = chance.choice(files)
        changed = mutated(originals[file], chance, list(originals.values()))
        try:
            file.write_bytes(changed)
            with watched(path.parent):
                sound += read_through(path)
        except BaseException as error:
            error.add_note(f"(change {number} of seed {seed} to {file.name})")
            raise
        finally:
            file.write_bytes(originals[file])
    return sound
