"""`milepost bench`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from milepost.bench import limits

LIMITS = {"write_limit", "copy_limit", "warm_limit"}
OURS = {"durable_save", "unchanged_save", "blocked", "warm_restore"}
COLD = {"cold_limit", "cold_restore"}


def test_everything_is_measured_and_nothing_is_left(cli, tmp_path):
    finished = cli("bench", tmp_path, "--size", "4MB", "--rounds", 2, "--json")
    assert finished.status == 0
    found = finished.json
    assert set(found) == {
        "path", "filesystem", "past_page_cache", "in_memory", "bytes", "measurements",
    }  # fmt: skip
    assert 3.5e6 < found["bytes"] < 4.5e6
    assert set(found["measurements"]) - COLD == LIMITS | OURS
    for name, measured in found["measurements"].items():
        assert len(measured["seconds"]) == 2
        assert min(measured["seconds"]) <= measured["median"] <= max(measured["seconds"])
        if name.endswith("_limit"):
            assert measured["limit"] is None
            assert measured["beside_limit"] is None
        else:
            limit = found["measurements"][measured["limit"]]
            assert measured["beside_limit"] == measured["median"] / limit["median"]
    assert os.listdir(tmp_path) == []


def test_the_table_for_people(cli, tmp_path):
    lines = cli("bench", tmp_path, "--size", "2MB", "--rounds", 1).out.splitlines()
    assert "a state of 2." in lines[0]
    assert "beside its limit" in lines[3]
    assert any(line.startswith("save, durable  ") and line.endswith("x as long") for line in lines)


@pytest.mark.skipif(limits.filesystem_of("/dev/shm") != "tmpfs", reason="no tmpfs here")
def test_a_disk_in_memory_is_called_so(cli):
    before = set(os.listdir("/dev/shm"))
    finished = cli("bench", "/dev/shm", "--size", "4MB", "--rounds", 1)
    assert finished.status == 0
    assert "tmpfs" in finished.out
    assert "files are in memory only here" in finished.out
    assert "from the disk" not in finished.out  # nothing is ever cold
    assert not {name for name in os.listdir("/dev/shm") if "bench" in name} - before


def test_a_path_that_is_not_there(cli, tmp_path):
    finished = cli("bench", tmp_path / "gone")
    assert finished.status == 3
    assert finished.err.count("\n") == 1
    assert f"{tmp_path / 'gone'} does not exist" in finished.err
    assert os.listdir(tmp_path) == []


def test_a_path_that_is_no_folder(cli, tmp_path):
    (tmp_path / "file").write_text("Dear reader")
    assert cli("bench", tmp_path / "file").status == 2


def test_what_does_not_fit_is_refused_before_anything_is_written(cli, tmp_path):
    finished = cli("bench", tmp_path, "--size", "1000000GB")
    assert finished.status == 5
    assert "choose a smaller --size" in finished.err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", ["much", "-4MB", "1KB", "nan", "inf", "1e999GB"])
def test_a_size_that_is_none(cli, tmp_path, size):
    assert cli("bench", tmp_path, f"--size={size}").status == 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals are different there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_it_is_stopped(tmp_path, number):
    command = [sys.executable, "-m", "milepost", "bench", str(tmp_path), "--size", "16MB"]
    process = subprocess.Popen(
        [*command, "--rounds", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    for _ in range(600):
        if any(name == "store" for _, folders, _ in os.walk(tmp_path) for name in folders):
            break
        time.sleep(0.1)
    time.sleep(0.3)  # somewhere in the midst of it
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode not in (0, -number)
    assert b"Traceback" not in errors
    assert os.listdir(tmp_path) == []


def test_no_framework_is_imported(run_program):
    finished = run_program(
        """
        import sys
        from click.testing import CliRunner
        from milepost.cli import cli
        arguments = ["bench", ".", "--size", "1MB", "--rounds", "1"]
        assert CliRunner().invoke(cli, arguments).exit_code == 0
        print(sorted({"torch", "tensorflow", "keras", "jax"} & sys.modules.keys()))
        """
    )
    assert finished.stdout == "[]\n"


def test_an_operating_system_that_tells_of_no_filesystems(monkeypatch, tmp_path):
    monkeypatch.setattr("builtins.open", lambda *a, **k: (_ for _ in ()).throw(OSError()))
    assert limits.filesystem_of(str(tmp_path)) is None
