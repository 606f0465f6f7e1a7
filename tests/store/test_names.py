"""Which step is the newest is remembered, noted, and never wrong."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from milepost import sealed
from milepost.storage import marks
from milepost.storage.filesystem import OperatingSystem
from milepost.storage.local import LocalStorage
from milepost.storage.memory import MemoryStorage
from milepost.store import Store, Writer, layout, prune, verify_store

from .conftest import check, make_state
from .test_growth import Watched

linux = pytest.mark.skipif(sys.platform != "linux", reason="there are no marks here")


def saved(folder: Path, *steps: int) -> Writer:
    writer = Writer(Store.open_or_create(LocalStorage(folder)))
    for step in steps:
        writer.save(make_state(step), step)
    return writer


def manifest(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"{step:020d}.json"


def is_found_unlisted(folder: Path) -> bool:
    """Whether another process finds the newest without listing, and that it is right."""
    fs = Watched()
    store = Store.open(LocalStorage(folder, fs))
    fs.calls.clear()
    assert store.newest_step() == max(names(folder))
    return "checkpoints" not in fs.lists()


def names(folder: Path) -> list[int]:
    return sorted(int(name[:20]) for name in os.listdir(folder / "checkpoints"))


def test_what_is_known_is_what_is_there(tmp_path: Path):
    """Writers, a pruner and strangers in any order: each store says what a listing says."""
    draw = random.Random(0)
    writers = [saved(tmp_path, 50), saved(tmp_path), saved(tmp_path)]
    reader, unlisted = Store.open(LocalStorage(tmp_path)), 0

    def stranger_copies() -> None:
        data = manifest(tmp_path, names(tmp_path)[0]).read_bytes()
        manifest(tmp_path, draw.randrange(1000)).write_bytes(data)

    def stranger_removes() -> None:
        if len(names(tmp_path)) > 1:
            manifest(tmp_path, draw.choice(names(tmp_path))).unlink()

    for _ in range(150):
        writer, step = draw.choice(writers), draw.randrange(100)
        action = draw.choice(
            [
                lambda w=writer: w.save(make_state(1), w.next_step()),
                lambda w=writer: w.save(make_state(1), w.next_step()),
                lambda w=writer, n=step: w.save(make_state(2), n, overwrite=True),
                lambda w=writer, n=step: n in w.store or w.save(make_state(3), n),
                lambda w=writer: prune(w.store, lambda now: now.steps[-5:]),
                stranger_copies,
                stranger_removes,
            ]
        )
        action()
        there = names(tmp_path)
        for store in [reader, Store.open(LocalStorage(tmp_path)), *(w.store for w in writers)]:
            assert store.newest_step() == there[-1]
            assert list(reversed(store)) == there[::-1]
            assert store.steps == there
        unlisted += is_found_unlisted(tmp_path)
    assert unlisted > 30 or sys.platform != "linux"


@pytest.mark.parametrize("make", [LocalStorage, lambda folder: MemoryStorage()])
def test_steps_out_of_order(tmp_path: Path, make: Callable[[Path], LocalStorage]):
    writer = Writer(Store.open_or_create(make(tmp_path)))
    steps = [5, 300, 7, 1, 299, 301, 0]
    for number, step in enumerate(steps, start=1):
        writer.save(make_state(step), step)
        other = Store.open(writer.store.storage)
        for store in (writer.store, other):
            assert store.newest_step() == max(steps[:number])
            assert list(reversed(store)) == sorted(steps[:number], reverse=True)
            assert store.latest.step == max(steps[:number])


def test_more_steps_than_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("milepost.store.names._NOTED", 4)
    writers = [saved(tmp_path, *range(10, 20, 2)), saved(tmp_path, *range(20, 30, 2))]
    for number, step in enumerate((5, 23, 21, 40, 1, 15, 41)):
        writer = writers[number % 2]  # which knows what the other has noted
        writer.save(make_state(step), step)
        for store in (writer.store, Store.open(writer.store.storage)):
            assert list(reversed(store)) == names(tmp_path)[::-1]
            assert store.steps == names(tmp_path)
        assert is_found_unlisted(tmp_path) or sys.platform != "linux"


PROCESS = """
import sys
from tests.store.conftest import make_state
from milepost.storage.local import LocalStorage
from milepost.store import Store, Writer, prune
for line in sys.stdin:
    what, step = line.split()
    store = Store.open(LocalStorage("."))
    if what == "prune":
        prune(store, lambda now: [int(step)])
    elif what == "newest":
        print(store.latest.step, flush=True)
        continue
    else:
        Writer(store).save(make_state(int(step)), int(step), overwrite=what == "overwrite")
    print(store.steps, flush=True)
"""


def test_another_process_saves_overwrites_and_prunes_between(tmp_path: Path):
    writer = saved(tmp_path, 1, 2)
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def other(what: str, step: int) -> object:
        assert process.stdin is not None
        assert process.stdout is not None
        print(what, step, file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())

    with process:
        assert other("save", 9) == [1, 2, 9]
        assert writer.store.latest.step == 9
        assert writer.next_step() == 10
        writer.save(make_state(10), writer.next_step())
        assert other("newest", 0) == 10
        assert other("save", 5) == [1, 2, 5, 9, 10]
        assert writer.store.steps == [1, 2, 5, 9, 10]
        assert other("overwrite", 10) == [1, 2, 5, 9, 10]
        assert writer.store.latest.step == 10
        assert other("prune", 2) == [2, 10]
        assert writer.store.steps == [2, 10]
        manifest(tmp_path, 10).unlink()
        assert other("newest", 0) == writer.store.latest.step == 2
        assert process.stdin is not None
        process.stdin.close()
    assert process.returncode == 0
    assert list(verify_store(writer.store)) == []


@linux
def test_two_that_commit_at_once_do_not_take_each_other_for_themselves(tmp_path: Path):
    """Another commits between the look at the folder and the link: at each call of a save."""
    calls = len(_calls(tmp_path / "counted", None))
    both = set()
    for number in range(calls):
        folder = tmp_path / str(number)
        _calls(folder, number)
        there = names(folder)
        assert there == [1, 2, 3, 99]
        both.add(is_found_unlisted(folder))
        assert Store.open(LocalStorage(folder)).newest_step() == 99
    assert both == {True, False}


class _Interrupted(OperatingSystem):
    """At one of its calls, another writer commits step 99 first, as an old milepost would."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.at: int | None = None
        self.folder = Path()

    def _seen(self, call: str) -> None:
        self.calls.append(call)
        if len(self.calls) - 1 == self.at:
            commit_as_others_do(self.folder, 99)


for _call in ("create", "rename", "link", "unlink", "sync_folder", "mark", "marked", "list"):

    def _interrupted(self: _Interrupted, *arguments: str, call: str = _call) -> object:
        self._seen(call)
        return getattr(OperatingSystem, call)(self, *arguments)

    setattr(_Interrupted, _call, _interrupted)


def commit_as_others_do(folder: Path, step: int) -> None:
    """As docs/format.md says, without a mark."""
    partial = folder / "partial" / f"0123-{step}.json"
    partial.write_bytes(manifest(folder, 1).read_bytes())
    os.link(partial, manifest(folder, step))
    partial.unlink()


def _calls(folder: Path, at: int | None) -> list[str]:
    fs = _Interrupted()
    fs.folder = folder
    writer = Writer(Store.open_or_create(LocalStorage(folder, fs)))
    writer.save(make_state(1), 1)
    writer.save(make_state(2), 2)
    before = len(fs.calls)
    fs.at = None if at is None else before + at
    writer.save(make_state(3), 3)
    return fs.calls[before:]


@linux
def test_a_writer_that_is_about_to_commit_is_waited_for(tmp_path: Path):
    """Its link may come at any moment: what is known then is not passed on."""
    writer = saved(tmp_path, 1, 2)
    (tmp_path / "partial" / "0123-00000000000000000099.json").write_bytes(b"{}")
    writer.save(make_state(3), 3)
    assert not is_found_unlisted(tmp_path)
    (tmp_path / "partial" / "0123-00000000000000000099.json").unlink()
    writer.save(make_state(4), 4)
    assert is_found_unlisted(tmp_path)


@linux
def test_a_damaged_note_is_none(tmp_path: Path):
    saved(tmp_path, 1, 2)
    path = tmp_path / "newest.json"
    whole = path.read_bytes()
    assert is_found_unlisted(tmp_path)
    for position in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[position] ^= 1 << bit
            path.write_bytes(data)
            assert not is_found_unlisted(tmp_path)
        path.write_bytes(whole[:position])
        assert not is_found_unlisted(tmp_path)
    path.write_bytes(whole)
    assert is_found_unlisted(tmp_path)


@linux
@pytest.mark.parametrize(
    "steps",
    [
        [], {}, "2", None, [1, 99], [2, 1], [1, 1], [-1, 2], [1, True], [1, 2.0], ["2"], [None],
        [10**20], [10**4000], [[2]], [1] * 9000, list(range(9000)),
    ],
)  # fmt: skip
def test_a_hostile_note_is_none(tmp_path: Path, steps: object):
    saved(tmp_path, 1, 2)
    mark = marks.marked(str(tmp_path / "checkpoints"))
    assert mark is not None
    (tmp_path / "newest.json").write_bytes(sealed.seal("newest", {"mark": mark, "steps": steps}))
    assert not is_found_unlisted(tmp_path)
    check(Store.open(LocalStorage(tmp_path)).latest, make_state(2))


@linux
@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["fifo", "folder", "loop", "huge", "deep", "unreadable"])
def test_what_is_no_file_is_no_note(tmp_path: Path, kind: str):
    saved(tmp_path, 1, 2)
    path = tmp_path / "newest.json"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "huge":
        path.touch()
        os.truncate(path, 1 << 40)
    elif kind == "deep":
        path.write_bytes(b"[" * 16000)
    else:
        path.symlink_to("/proc/self/mem")
    assert not is_found_unlisted(tmp_path)
    saved(tmp_path, 3)
    assert Store.open(LocalStorage(tmp_path)).latest.step == 3


@linux
def test_a_stale_note_is_none(tmp_path: Path):
    writer = saved(tmp_path, 1, 2)
    path = tmp_path / "newest.json"
    stale = path.read_bytes()
    writer.save(make_state(3), 3)
    fresh = path.read_bytes()
    assert is_found_unlisted(tmp_path)
    path.write_bytes(stale)
    assert not is_found_unlisted(tmp_path)
    path.write_bytes(fresh)
    commit_as_others_do(tmp_path, 7)
    assert not is_found_unlisted(tmp_path)


@linux
def test_a_note_that_was_put_back_with_the_times_of_its_folder_is_none(tmp_path: Path):
    """As `rsync -a` does from a backup, which leaves alone what is newer here."""
    writer = saved(tmp_path, 1, 2)
    folder, path = tmp_path / "checkpoints", tmp_path / "newest.json"
    backup, times = path.read_bytes(), os.stat(folder)
    writer.save(make_state(3), 3)
    path.write_bytes(backup)
    os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not is_found_unlisted(tmp_path)


def test_without_marks_the_names_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(marks, "_TRUSTED", set())
    monkeypatch.setattr(marks, "_trusted", {})
    writer = saved(tmp_path, 1, 2)
    writer.save(make_state(3), writer.next_step())
    assert not is_found_unlisted(tmp_path)
    assert not (tmp_path / "newest.json").exists()
    assert writer.store.steps == [1, 2, 3]


@linux
def test_what_is_removed_leaves_a_note(tmp_path: Path):
    writer = saved(tmp_path, 1, 2, 3)
    prune(writer.store, lambda _: [1])
    assert is_found_unlisted(tmp_path)
    assert Store.open(LocalStorage(tmp_path)).steps == [1, 3]


def test_a_note_says_nothing_of_the_machine(tmp_path: Path):
    saved(tmp_path, 1, 2)
    body = sealed.unseal("newest", (tmp_path / layout.NEWEST).read_bytes(), "note")
    assert set(body) == {"format", "mark", "steps"}
    assert body["mark"].startswith("blake3:")
    assert body["steps"] == [1, 2]
