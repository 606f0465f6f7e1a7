"""Reading past the page cache: the same bytes, and nothing left in the cache."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys

import numpy as np
import pytest

import milepost
from milepost import errors
from milepost.bench import limits
from milepost.buffers import BLOCK, aligned
from milepost.dtypes import byte_view
from milepost.storage import local
from milepost.storage.local import open_file
from milepost.storage.look import LEAST_BYTES, look

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what it holds")
SIZE = 3 * LEAST_BYTES + 100
DATA = np.random.default_rng(0).bytes(SIZE)


def cached(path) -> int:
    """How many blocks of a file are in the page cache."""
    blocks = -(-os.path.getsize(path) // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * blocks)()
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        begin = ctypes.c_char.from_buffer(memory)
        system = ctypes.CDLL(None)
        nbytes = ctypes.c_size_t(len(memory))
        assert system.mincore(ctypes.c_void_p(ctypes.addressof(begin)), nbytes, found) == 0
        del begin
    return sum(block & 1 for block in found)


def cold(path) -> None:
    os.sync()
    limits.drop_cache(str(path))
    if cached(path):
        pytest.skip("this filesystem keeps what it is told to drop")


def first_look(path, action, looked):
    """What `action` returns when the file is cold and `looked` is true of what it returned.

    Once in some hundred times the block that it asks for is there before it is told that it is
    not: then the file passes for cached.
    """
    for _ in range(10):
        cold(path)
        found = action()
        if looked(found):
            break
    return found


@pytest.fixture
def path(tmp_path):
    found = tmp_path / "file"
    found.write_bytes(DATA)
    if not limits.goes_direct(str(tmp_path)):
        pytest.skip("this filesystem has nothing past its cache")
    cold(found)
    return found


def room(offset: int, nbytes: int, shift: int = 0) -> memoryview:
    """Memory that lies as far from a block's boundary as `offset`, or further."""
    start = (offset + shift) % BLOCK
    return byte_view(aligned(start + nbytes, BLOCK))[start:]


@pytest.mark.parametrize(
    ("offset", "nbytes"),
    [(0, LEAST_BYTES), (0, SIZE), (64, SIZE - 64), (BLOCK, LEAST_BYTES + 1), (5000, 500_001)],
)
def test_it_reads_the_same_and_caches_three_blocks(path, offset, nbytes):
    buffer = room(offset, nbytes)
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead of the ends
        found = first_look(path, lambda: look(file.fileno(), offset, buffer), bool)
    assert found == nbytes
    assert buffer == DATA[offset : offset + nbytes]
    assert cached(path) <= 3


def test_who_looks_again_reads_through_the_cache(path):
    with open(path, "rb") as file:
        assert first_look(path, lambda: look(file.fileno(), 0, room(0, SIZE)), bool) == SIZE
        assert look(file.fileno(), 0, room(0, SIZE)) is None


def test_what_is_cached_is_read_from_there(path):
    path.read_bytes()
    with open(path, "rb") as file:
        assert look(file.fileno(), 0, room(0, SIZE)) is None


@pytest.mark.parametrize(
    ("offset", "nbytes", "shift"), [(0, SIZE, 1), (64, SIZE - 64, 64), (0, LEAST_BYTES - 1, 0)]
)
def test_what_cannot_go_past_it_is_left_to_others(path, offset, nbytes, shift):
    with open(path, "rb") as file:
        assert look(file.fileno(), offset, room(offset, nbytes, shift)) is None


def test_a_file_that_ends_early_is_left_to_others(path):
    with open(path, "rb") as file:
        assert look(file.fileno(), 0, room(0, SIZE + BLOCK)) is None


def test_a_filesystem_that_cannot_reads_through_the_cache(path, monkeypatch):
    really, asked = os.open, []

    def refused(name, flags, *more, **options):
        if flags & os.O_DIRECT:
            asked.append(name)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
        return really(name, flags, *more, **options)

    monkeypatch.setattr(os, "open", refused)
    file, buffer = open_file(str(path)), room(0, SIZE)
    assert file.look_into(0, buffer) == SIZE
    assert buffer == DATA
    assert first_look(path, lambda: file.look_into(0, buffer), lambda _: asked) == SIZE
    assert asked


def test_who_reads_on_reads_through_the_cache(path, monkeypatch):
    monkeypatch.setattr(local, "_LOOK_BYTES", LEAST_BYTES)
    buffer = room(0, LEAST_BYTES)

    def first():
        file = open_file(str(path))
        assert file.look_into(0, buffer) == LEAST_BYTES
        assert buffer == DATA[:LEAST_BYTES]
        return file, cached(path)

    file, before = first_look(path, first, lambda found: found[1] <= 1)
    assert before <= 1
    assert file.look_into(LEAST_BYTES, buffer) == LEAST_BYTES
    assert buffer == DATA[LEAST_BYTES : 2 * LEAST_BYTES]
    assert cached(path) >= before + LEAST_BYTES // mmap.PAGESIZE
    file.close()
    with pytest.raises(ValueError, match="is closed"):
        file.look_into(0, buffer)


@pytest.mark.parametrize("kind", ["store", "model"])
def test_a_leaf_is_read_past_it_and_checked(tmp_path, kind):
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(1024, 1024)
    if not limits.goes_direct(str(tmp_path)):
        pytest.skip("this filesystem has nothing past its cache")
    if kind == "store":
        milepost.Checkpoint(model=model).save(tmp_path / "store")
        (file,) = (tmp_path / "store/data").iterdir()
        name = "model/weight"
    else:
        file, name = tmp_path / "file", "weight"
        milepost.save_model(model, file)

    def opened():
        found = milepost.open(tmp_path / "store" if kind == "store" else file)
        return found.latest if kind == "store" else found

    def read():
        with opened() as snapshot:
            return np.asarray(snapshot[name]), cached(file) * mmap.PAGESIZE

    expected = model.weight.detach().numpy()
    few = expected.nbytes // 2
    found, in_cache = first_look(file, read, lambda found: found[1] < few)
    assert in_cache < few
    assert found.tobytes() == expected.tobytes()
    data = bytearray(file.read_bytes())
    data[data.index(expected.tobytes()) + 2_000_000] ^= 1
    file.write_bytes(data)
    cold(file)
    with pytest.raises(errors.DamagedError, match="weight.*damaged"):
        read()
