"""What makes docs/benchmarks.md hangs together: goals, programs, page. Nothing is measured here."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_goals_say_whether_they_are_met(module):
    goals = module("goals")
    first, second = goals.GOALS[0], next(goal for goal in goals.GOALS if not goal.at_least)
    assert (first.key, second.key) == ("save_limit", "lookup_store")
    found = {
        "program": "saving",
        "goals": {
            first.key: {"value": 0.95, "measured": "0.95"},
            second.key: {"value": 13.0, "measured": "13 ms"},
            "other": {"what": "speed", "goal": "1 GB/s", "measured": "2 GB/s", "met": True},
        },
    }
    lines = goals.table([found]).splitlines()
    assert f"| {first.what} | 0.9 | 0.95 | yes | `saving.py` |" in lines
    assert f"| {second.what} | 12 ms | 13 ms | **no** | `lookup.py` |" in lines
    assert lines[-1] == "| speed | 1 GB/s | 2 GB/s | yes | `saving.py` |"
    assert sum("| not measured |  |" in line for line in lines) == len(goals.GOALS) - 2


def test_the_page_shows_every_program_and_no_other(module):
    run = module("run")
    page = (BENCHMARKS / "page.md").read_text()
    tables = re.findall(r"^<!-- table ([\w-]+) -->$", page, re.MULTILINE)
    assert sorted(tables) == sorted(run.SMALL)
    assert {goal.program for goal in module("goals").GOALS} <= set(run.SMALL)


def test_a_program_runs_alone_and_leaves_nothing_but_its_results(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "finetune.py"), "--megabytes", "1"]
    command += ["--checkpoints", "3", "--json", "results/finetune.json"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
