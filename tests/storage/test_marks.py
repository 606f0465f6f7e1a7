"""A folder keeps its mark until a name in it changes, and no longer."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from milepost.storage import marks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no marks here")


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory(
        dir="/dev/shm" if request.param == "memory" else tmp_path
    ) as at:
        path = Path(at) / "folder"
        path.mkdir()
        (path / "a").write_text("a")
        (path.parent / "b").write_text("b")
        yield str(path)


CHANGES = {
    "create": lambda folder: open(f"{folder}/new", "x").close(),
    "link": lambda folder: os.link(f"{folder}/../b", f"{folder}/new"),
    "rename": lambda folder: os.rename(f"{folder}/a", f"{folder}/b"),
    "rename in": lambda folder: os.rename(f"{folder}/../b", f"{folder}/b"),
    "replace": lambda folder: os.replace(f"{folder}/../b", f"{folder}/a"),
    "rename away": lambda folder: os.rename(f"{folder}/a", f"{folder}/../a"),
    "unlink": lambda folder: os.unlink(f"{folder}/a"),
    "mkdir": lambda folder: os.mkdir(f"{folder}/new"),
    "symlink": lambda folder: os.symlink("a", f"{folder}/new"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_shows_at_once(folder: str, change: str) -> None:
    """However soon it comes after the mark: much sooner than the clock ticks."""
    marks.mark(folder)
    before = marks.marked(folder)
    assert before is not None
    CHANGES[change](folder)
    assert marks.marked(folder) is None
    marks.mark(folder)
    assert marks.marked(folder) not in (None, before)


def test_what_changes_no_name_leaves_it(folder: str) -> None:
    marks.mark(folder)
    before = marks.marked(folder)
    marks.mark(folder)
    Path(folder, "a").write_text("another")
    os.listdir(folder)
    assert marks.marked(folder) == before is not None


def test_no_two_marks_are_equal(folder: str) -> None:
    found = set()
    for number in range(500):
        marks.mark(folder)
        found.add(marks.marked(folder))
        open(f"{folder}/{number}", "x").close()
    assert len(found) == 500
    assert None not in found


def test_marks_of_one_tick_are_no_two_equal(folder: str) -> None:
    """Where all that happens within some milliseconds has one time."""
    behind = set()
    for number in range(50):
        now = os.stat(folder).st_ctime_ns
        marks.mark(folder)
        behind.add(now - os.stat(folder).st_mtime_ns)
        open(f"{folder}/{number}", "x").close()
    assert len(behind) == 50


def test_a_mark_that_is_put_back_is_another(folder: str) -> None:
    marks.mark(folder)
    before, times = marks.marked(folder), os.stat(folder)
    CHANGES["create"](folder)
    os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert marks.marked(folder) != before


def test_times_of_whole_milliseconds_are_none(folder: str) -> None:
    os.utime(folder, ns=(0, 10**18 + 5_000_000))
    assert marks.marked(folder) is None


def test_a_time_just_behind_is_none(folder: str) -> None:
    """It may be of a change within the tick in which the folder got it."""
    now = os.stat(folder).st_ctime_ns
    os.utime(folder, ns=(0, now - 10**9 + 1))
    assert marks.marked(folder) is None


def test_another_boot_has_other_marks(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    marks.mark(folder)
    before = marks.marked(folder)
    monkeypatch.setattr(marks, "_boot", lambda: "another")
    assert marks.marked(folder) not in (None, before)
    monkeypatch.setattr(marks, "_boot", lambda: None)
    assert marks.marked(folder) is None


def test_a_filesystem_that_is_not_known_has_none_and_is_left_alone(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "_TRUSTED", {"nfs4"})
    monkeypatch.setattr(marks, "_trusted", {})
    before = os.stat(folder)
    marks.mark(folder)
    assert marks.marked(folder) is None
    assert os.stat(folder).st_mtime_ns == before.st_mtime_ns
    marks.mark("/proc/self")
    assert marks.marked("/proc/self") is None
    with marks._folder("/proc/self") as handle:
        assert marks._kind(handle) == "proc"


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        marks.marked(str(tmp_path / "none"))
