"""What all tests share: running a program in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# One test process is one of several: none needs the whole machine.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

Run = Callable[..., subprocess.CompletedProcess[str]]
# These take half a minute or more each.
LONG = (
    "resume/",
    "test_docs.py",
    "test_article.py",
    "coverage/test_coverage.py",
    "keras/test_callback.py",
    "keras/test_checkpoint.py",
    "keras/test_foreign_model.py",
    "cli/test_demo.py",
    "cli/test_verify.py",
    "prediction/test_load_program.py",
    "test_instructions.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: not item.nodeid.removeprefix("tests/").startswith(LONG))


@pytest.fixture(autouse=True)
def small_leaves_are_read_as_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests have small arrays, and it is the path of large ones that can go wrong."""
    monkeypatch.setattr("milepost.checkpoint.late.SMALL_BYTES", 0)


@pytest.fixture
def run_program(tmp_path: Path) -> Run:
    """Run Python code in a new process, in `tmp_path`; returns the finished process."""

    def run(
        code: str, *arguments: str, status: int | None = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        finished = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        if status is not None:
            assert finished.returncode == status, finished.stderr[-4000:]
        return finished

    return run
