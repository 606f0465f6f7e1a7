"""What is done in a store of a thousand checkpoints is what is done in one of ten."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from pathlib import Path

import click.testing
import numpy as np
import pytest

from milepost import Checkpoint, CheckpointManager, KeepBest, KeepEvery, errors
from milepost.cli.log import log
from milepost.storage.filesystem import FileSystem, OperatingSystem
from milepost.storage.local import LocalStorage
from milepost.store import Store, Writer, layout, manifest, verify_store

from .conftest import check, make_state

CALLS = [name for name in vars(FileSystem) if not name.startswith("_")]


class Watched:
    """A filesystem that notes every call, and the last part of the path that it was about."""

    renames_open_files = OperatingSystem.renames_open_files

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def __getattr__(self, name: str):
        call = getattr(OperatingSystem(), name)

        def noted(*arguments, **options):
            about = Path(arguments[0]).name if isinstance(arguments[0], str) else ""
            self.calls.append((name, about))
            return call(*arguments, **options)

        return noted if name in CALLS else call

    def count(self, action) -> dict[str, int]:
        self.calls.clear()
        action()
        # A file is closed when Python collects what had it open, which may be in any other call.
        return dict(collections.Counter(name for name, _ in self.calls if name != "close"))

    def lists(self) -> list[str]:
        return [about for name, about in self.calls if name == "list"]


def checkpoint() -> Checkpoint:
    return Checkpoint(frozen=np.arange(3000.0), changing=np.zeros(10))


def filled(folder: Path, size: int) -> LocalStorage:
    """A store of so many checkpoints, all but the first of which are its copies."""
    storage = LocalStorage(folder, Watched())
    checkpoint().save(storage, step=1, metrics={"loss": 1.0})
    first = Store.open(storage).manifest(1)
    for step in range(2, size + 1):
        data = manifest.encode(dataclasses.replace(first, step=step))
        (folder / layout.manifest_name(step)).write_bytes(data)
    return storage


@pytest.fixture(scope="module")
def sizes(tmp_path_factory) -> list[LocalStorage]:
    return [filled(tmp_path_factory.mktemp("store"), size) for size in (10, 1000)]


def watch(storage: LocalStorage) -> Watched:
    return storage._fs  # type: ignore[return-value]


def warm(storage: LocalStorage) -> Checkpoint:
    """One that has saved to this store before."""
    saver = checkpoint()
    saver.save(storage)
    return saver


def test_a_save(sizes):
    counts = []
    for storage in sizes:
        saver = warm(storage)
        saver.changing += 1
        counts.append(watch(storage).count(lambda s=saver, at=storage: s.save(at)))
        assert not {"checkpoints", "data"} & set(watch(storage).lists())
        assert Store.open(storage).latest["changing"][0] == 1
    assert counts[0] == counts[1]


def test_a_save_of_a_given_step_lists_nothing(sizes):
    counts = []
    for storage in sizes:
        saver, step = warm(storage), Store.open(storage).newest_step() + 1
        saver.changing += 1
        counts.append(watch(storage).count(lambda s=saver, at=storage, n=step: s.save(at, step=n)))
        assert not {"checkpoints", "data"} & set(watch(storage).lists())
        with pytest.raises(errors.StepExistsError):
            saver.save(storage, step=step)
    assert counts[0] == counts[1]


def test_a_save_of_a_manager_reads_one_manifest(sizes):
    counts = []
    for storage in sizes:
        saver, keep = checkpoint(), KeepEvery(1) | KeepBest("loss")
        manager = CheckpointManager(saver, storage, keep=keep, on_sigterm=False)
        manager.save(metrics={"loss": 0.5})
        saver.changing += 1
        step = Store.open(storage).newest_step() + 1
        counts.append(watch(storage).count(lambda m=manager, n=step: m.save(n)))
        opened = [about for name, about in watch(storage).calls if name == "open"]
        assert opened.count(f"{step:020d}.json") == 1  # is it there?
        assert all(about.startswith(f"{step:020d}") for about in opened if about.endswith(".json"))
        assert "checkpoints" not in watch(storage).lists()  # nobody else has saved since
    assert counts[0] == counts[1]


def test_a_save_of_a_manager_that_needs_all_metrics_looks_at_no_other_manifest(tmp_path: Path):
    counts = []
    for size in (10, 200):
        storage = filled(tmp_path / str(size), size)
        saver, keep = checkpoint(), KeepBest("loss", 10**6)
        manager = CheckpointManager(saver, storage, keep=keep, on_sigterm=False)
        manager.save(metrics={"loss": 0.5})
        saver.changing += 1
        step = Store.open(storage).newest_step() + 1
        counts.append(
            watch(storage).count(lambda m=manager, n=step: m.save(n, metrics={"loss": 0.5}))
        )
        assert "checkpoints" not in watch(storage).lists()
    assert counts[0] == counts[1]


@pytest.mark.parametrize("step", ["latest", 5])
def test_a_restore(sizes, step):
    counts = []
    for storage in sizes:
        saver = warm(storage)
        counts.append(watch(storage).count(lambda s=saver, at=storage: s.restore(at, step=step)))
        assert not {"checkpoints", "data"} & set(watch(storage).lists())
        assert "data" not in watch(storage).lists()
    assert counts[0] == counts[1]


def test_what_is_there_is_asked_of_one_name(sizes):
    for storage in sizes:
        store = Store.open(storage)
        watch(storage).calls.clear()
        assert 7 in store
        assert 10**9 not in store
        assert "7" not in store
        assert -1 not in store
        assert watch(storage).lists() == []


def test_the_newest_few_are_read_alone(sizes, monkeypatch):
    read, steps = Store._read_manifest, []

    def noted(self, step):
        steps.append(step)
        return read(self, step)

    monkeypatch.setattr(Store, "_read_manifest", noted)
    for storage in sizes:
        steps.clear()
        newest = Store.open(storage).newest_step()
        result = click.testing.CliRunner().invoke(log, [storage.name, "-n", "10"])
        assert result.exit_code == 0
        assert steps == list(range(newest, newest - 10, -1))


def test_the_newest_is_found_in_a_note(sizes):
    counts = []
    for storage in sizes:
        newest = warm(storage).save(storage).step

        def latest(at=storage, newest=newest) -> None:
            store = Store.open(at)
            assert store.latest.step == newest
            assert len(list(itertools.islice(reversed(store), 10))) == 10

        counts.append(watch(storage).count(latest))
        assert "list" not in counts[-1]
    assert counts[0] == counts[1]


def test_a_newer_step_of_another_process_is_found_at_once(tmp_path: Path):
    first = Writer(Store.open_or_create(LocalStorage(tmp_path)))
    second = Writer(Store.open(LocalStorage(tmp_path)))
    for step in range(1, 21):
        writer, other = (first, second) if step % 2 else (second, first)
        writer.save(make_state(step), step)
        assert other.store.latest.step == step
        assert other.next_step() == step + 1
        with pytest.raises(errors.StepExistsError):
            other.save(make_state(0), step)
        check(other.store.latest, make_state(step))


def test_what_another_process_saved_is_shared(tmp_path: Path):
    """Though a writer that was the last to save does not look what there is."""
    first = Writer(Store.open_or_create(LocalStorage(tmp_path)))
    first.save(make_state(1, frozen=1), 1)
    second = Writer(Store.open(LocalStorage(tmp_path)))
    second.save(make_state(2, frozen=2), 2)
    report = first.save(make_state(2, frozen=2), 3)
    assert report.written == 0
    assert list(verify_store(first.store)) == []


def test_names_of_others_are_not_taken_for_the_newest(tmp_path: Path):
    store = Store.open_or_create(LocalStorage(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine")
    assert store.newest_step() is None
    with pytest.raises(errors.StepNotFoundError, match="no checkpoint yet"):
        store.open_step("latest")
    Writer(store).save(make_state(1), 1)
    assert store.latest.step == 1
