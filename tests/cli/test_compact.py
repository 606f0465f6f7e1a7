"""`milepost compact`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import milepost


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    weights = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    checkpoint = milepost.Checkpoint(weights=weights)
    for _ in range(3):
        weights += np.float32(1e-4)
        checkpoint.save(tmp_path / "trained")
    return tmp_path / "trained"


def test_it_says_what_it_gained(cli, trained: Path):
    assert "trained: compacted 2 checkpoints, " in cli("compact", trained).out
    assert "trained: nothing to compact, " in cli("compact", trained).out
    assert milepost.verify(trained) == []


def test_as_json(cli, trained: Path):
    report = cli("compact", trained, "--json", "--threads", 1).json
    assert report["steps"] == [1, 2]
    assert report["after"] < report["before"]
    assert report["path"] == str(trained)


def test_what_is_no_store(cli, tmp_path: Path):
    missing = cli("compact", tmp_path / "none")
    assert missing.status == 3
    assert "does not exist" in missing.err
    (tmp_path / "file").write_text("x")
    assert cli("compact", tmp_path / "file").status == 2
