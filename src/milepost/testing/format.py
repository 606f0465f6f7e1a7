"""What every format module must do, as tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milepost.dtypes import dtype_name
from milepost.errors import LeafNotFoundError
from milepost.lazy import LazyArray
from milepost.opening import open as open_path
from milepost.opening import verify
from milepost.snapshot import Snapshot
from milepost.testing.mutation import fuzz, read_through

_FRAMEWORKS = ("tensorflow", "torch", "jax", "keras", "flax", "equinox", "orbax", "transformers")
_READ_ALONE = """
import sys, milepost
with milepost.open(sys.argv[1]) as snapshot:
    for name in snapshot:
        snapshot.read(name)
print(*sorted(sys.modules))
"""


class FormatTests:
    """Subclass it, and give it a `make`.

    Attributes:
        executions: how many random changes to the files are tried in one test; the environment
            variable MILEPOST_FUZZ says how many in a long sweep.
        renames: whether the file may have any name. A folder always may.
    """

    executions = 60
    renames = True

    def make(self, folder: Path) -> tuple[Path, Mapping[str, Any]]:
        """A new file or folder of the format in `folder`, made by the format's own writer.

        Returns its path, and what the format's own reader finds in it: name -> NumPy array
        or plain value.
        """
        raise NotImplementedError

    @pytest.fixture
    def made(self, tmp_path: Path) -> tuple[Path, Mapping[str, Any]]:
        folder = tmp_path / "made"
        folder.mkdir()
        return self.make(folder)

    def opened(self, path: Path) -> Snapshot:
        opened = open_path(path)
        assert isinstance(opened, Snapshot)
        return opened

    def test_it_holds_what_its_own_reader_finds(self, made: tuple[Path, Mapping[str, Any]]) -> None:
        path, expected = made
        with self.opened(path) as snapshot:
            assert sorted(snapshot) == sorted(expected)
            for name, value in expected.items():
                same_value(snapshot.read(name), value, name)

    def test_specs_are_known_without_reading(self, made: tuple[Path, Mapping[str, Any]]) -> None:
        path, expected = made
        with self.opened(path) as snapshot:
            for name, value in expected.items():
                spec = snapshot.spec(name)
                if isinstance(value, np.ndarray):
                    wanted = "string" if value.dtype.hasobject else dtype_name(value.dtype)
                    assert (spec.dtype, spec.shape) == (wanted, value.shape), name
                else:
                    assert spec.shape is None, name
            assert json.dumps(snapshot.facts())
            with pytest.raises(LeafNotFoundError):
                snapshot["no such leaf"]

    def test_slices_and_parts_are_those_of_the_whole(
        self, made: tuple[Path, Mapping[str, Any]]
    ) -> None:
        path, expected = made
        with self.opened(path) as snapshot:
            for name, value in expected.items():
                if not isinstance(value, np.ndarray):
                    continue
                lazy = snapshot[name]
                assert isinstance(lazy, LazyArray)
                parts = [part.reshape(-1) for _, part in snapshot.read_parts(name)]
                empty = np.empty(0, value.dtype)
                same_value(np.concatenate([empty, *parts]), value.reshape(-1), name)
                if value.ndim:
                    for part in (slice(1, 3), slice(None, None, -2), slice(5, 2), -1):
                        if value.shape[0] or isinstance(part, slice):
                            same_value(
                                np.asarray(lazy[part]), np.asarray(value[part]), f"{name}[{part}]"
                            )
                    last = (*[slice(None)] * (value.ndim - 1), slice(0, value.shape[-1] // 2))
                    same_value(lazy[last], value[last], f"{name}[{last}]")

    def test_it_is_known_by_its_content(
        self, made: tuple[Path, Mapping[str, Any]], tmp_path: Path
    ) -> None:
        path, expected = made
        if path.exists() and (path.is_dir() or self.renames):
            other = tmp_path / "other.name"
            shutil.move(path, other)
            with self.opened(other) as snapshot:
                assert sorted(snapshot) == sorted(expected)

    def test_it_is_sound(self, made: tuple[Path, Mapping[str, Any]]) -> None:
        assert verify(made[0]) == []

    def test_no_framework_is_imported(self, made: tuple[Path, Mapping[str, Any]]) -> None:
        command = [sys.executable, "-c", _READ_ALONE, str(made[0])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not set(_FRAMEWORKS) & set(done.stdout.split())

    @pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="asks Linux what is open")
    def test_its_files_are_closed(self, made: tuple[Path, Mapping[str, Any]]) -> None:
        folder = os.path.realpath(made[0].parent)
        with self.opened(made[0]) as snapshot:
            for name in snapshot:
                snapshot.read(name)
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        still = [os.readlink(link) for link in links if os.path.lexists(link)]
        assert not [name for name in still if name.startswith(folder + os.sep)]

    def test_cut_short_it_is_refused_with_an_error_of_ours(
        self, made: tuple[Path, Mapping[str, Any]]
    ) -> None:
        for file in _files(made[0]):
            data = file.read_bytes()
            for length in {0, 1, 7, 8, len(data) // 3, len(data) // 2, len(data) - 1}:
                file.write_bytes(data[: max(0, length)])
                read_through(made[0])
            file.write_bytes(data)
        assert read_through(made[0])

    def test_changed_at_random_it_raises_only_errors_of_ours(
        self, made: tuple[Path, Mapping[str, Any]]
    ) -> None:
        executions = int(os.environ.get("MILEPOST_FUZZ", self.executions))
        seed = int(os.environ.get("MILEPOST_FUZZ_SEED", "7"))
        path = made[0] if made[0].exists() else made[0].parent
        assert read_through(path)
        fuzz(path, executions, seed)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    folder = path if path.is_dir() else path.parent
    return sorted(file for file in folder.rglob("*") if file.is_file())


def same_value(found: Any, expected: Any, name: str) -> None:
    """Whether two leaves are one to the last bit, NaN's payloads and signed zeros included."""
    if not isinstance(expected, np.ndarray):
        assert (type(found), found) == (type(expected), expected) or repr(found) == repr(expected)
        return
    assert isinstance(found, np.ndarray), name
    assert (found.dtype.newbyteorder("="), found.shape) == (
        expected.dtype.newbyteorder("="),
        expected.shape,
    ), name
    if expected.dtype.hasobject:
        assert found.tolist() == expected.tolist(), name
    else:
        native = expected.astype(expected.dtype.newbyteorder("="))
        assert found.tobytes() == native.tobytes(), f"{name} differs"


__all__ = ["FormatTests", "same_value"]
