"""A full disk and a read-only folder, for real: limits and permissions of the system."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from milepost import errors
from milepost.state import State
from milepost.storage.filesystem import OperatingSystem
from milepost.storage.local import LocalStorage
from milepost.store import Store, Writer, verify_store

from .conftest import check, make_state

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits and modes of POSIX")

SETUP = """
import os, resource, sys
import numpy as np
import milepost
from milepost import errors
checkpoint = milepost.Checkpoint(array=np.zeros(1000))
checkpoint.save("store", step=1)
model_before = b"a model that was here before"
open("model", "wb").write(model_before)
"""


def test_a_file_that_grows_past_the_limit(tmp_path: Path, run_program):
    run_program(
        SETUP
        + """
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for attempt in range(3):
    big = milepost.Checkpoint(array=np.random.default_rng(attempt).random(200_000))
    try:
        big.save("store", step=2)
    except errors.StorageError as error:
        assert "full" in str(error) and "free some space" in str(error), error
    else:
        raise SystemExit("it was saved")
assert os.listdir("store/partial") == []
assert len(os.listdir("store/data")) == 1
checkpoint.save("store", step=2)
"""
    )
    store = Store.open(LocalStorage(tmp_path / "store"))
    assert store.steps == [1, 2]
    assert list(verify_store(store)) == []


def test_a_model_file_that_grows_past_the_limit(tmp_path: Path, run_program):
    run_program(
        SETUP
        + """
import torch
model = torch.nn.Linear(300, 300)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    milepost.save_model(model, "model")
except errors.StorageError as error:
    assert "full" in str(error), error
else:
    raise SystemExit("it was saved")
"""
    )
    assert (tmp_path / "model").read_bytes() == b"a model that was here before"
    assert sorted(os.listdir(tmp_path)) == ["model", "store"]


def test_more_than_the_disk_has_free_is_noticed_before_anything_is_written(tmp_path: Path):
    class AlmostFull(OperatingSystem):
        def free_bytes(self, path: str) -> int:
            return 1000

    Writer(Store.open_or_create(LocalStorage(tmp_path / "store"))).save(make_state(1), 1)
    writer = Writer(Store.open(LocalStorage(tmp_path / "store", AlmostFull())))
    with pytest.raises(errors.StorageError, match=r"needs [\d,]+ bytes, but only 1,000 are free"):
        writer.save(make_state(2), 2)
    store = Store.open(LocalStorage(tmp_path / "store"))
    assert store.steps == [1]
    check(store[1], make_state(1))


READ_ONLY = """
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)  # root may write anywhere
for attempt in (
    lambda: checkpoint.save("store", step=2),
    lambda: milepost.Checkpoint(a=1).save("other"),
    lambda: milepost.save_model(model, "model"),
    lambda: milepost.save_model(model, "new-model"),
):
    try:
        attempt()
    except errors.StorageError as error:
        assert "not permitted: check the owner" in str(error), error
        assert error.exit_status == 5
    else:
        raise SystemExit("it was saved")
# Reading needs no permission to write.
restored = milepost.Checkpoint(array=np.ones(1000))
restored.restore("store")
assert not restored.array.any()
assert milepost.verify("store") == []
"""


def test_a_read_only_folder(tmp_path: Path, run_program):
    try:
        prepare = """
import torch, safetensors
import milepost.frameworks.torch, milepost.model, milepost.opening
model = torch.nn.Linear(3, 3)
milepost.save_model(model, "model")
for folder, _, files in os.walk("."):
    for file in files:
        os.chmod(os.path.join(folder, file), 0o444)
for folder in ("store/partial", "store/data", "store/checkpoints", "store", "."):
    os.chmod(folder, 0o555)
"""
        open_path(tmp_path)
        run_program(SETUP + prepare + READ_ONLY)
    finally:
        for folder, _, _ in os.walk(tmp_path):
            os.chmod(folder, 0o755)
    assert sorted(os.listdir(tmp_path)) == ["model", "store"]
    assert Store.open(LocalStorage(tmp_path / "store")).steps == [1]


def open_path(path: Path) -> None:
    """Let another user reach a folder of pytest's, which is its owner's alone."""
    for folder in (path, *path.parents):
        if not os.stat(folder).st_mode & 0o001:
            os.chmod(folder, 0o755)


def test_an_empty_state_needs_no_space(tmp_path: Path):
    report = Writer(Store.open_or_create(LocalStorage(tmp_path / "s"))).save(State({"n": 1}), 1)
    assert report.written == 0
