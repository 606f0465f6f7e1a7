"""The command line as a process, and a store and a model to look at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from milepost import Checkpoint


class Finished:
    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.status, self.out, self.err = process.returncode, process.stdout, process.stderr
        assert "Traceback" not in self.err, self.err

    @property
    def json(self):
        return json.loads(self.out, parse_constant=lambda word: pytest.fail(word))


@pytest.fixture
def cli(tmp_path: Path):
    def run(*arguments: object) -> Finished:
        command = [sys.executable, "-m", "milepost", *map(str, arguments)]
        finished = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280
        )
        return Finished(finished)

    return run


@pytest.fixture
def store(tmp_path: Path) -> Path:
    model = {"dense": {"kernel": np.zeros((300, 4), np.float32), "bias": np.zeros(4, np.float16)}}
    checkpoint = Checkpoint(model=model, progress={"epoch": 0, "note": "x" * 100})
    for step in (1, 2, 3):
        model["dense"]["kernel"][:] = step
        checkpoint.progress["epoch"] = step
        metrics = {"loss": 1 / step, "odd": float("nan")}
        checkpoint.save(tmp_path / "store", step, metrics=metrics, metadata={"epoch": step})
    return tmp_path / "store"
