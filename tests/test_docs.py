"""Every code block of the documentation runs, or says why not.

A page is one program: its `python` blocks in order, in one process, in an empty folder, and its
`console` blocks as the shell commands that they are. Blocks of `text` are not code.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(<!-- not run here: .+ -->\n)?```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def program(page: Path) -> str:
    parts = ["import subprocess as _subprocess"]
    for skipped, kind, code in BLOCK.findall(page.read_text()):
        assert kind in ("python", "console", "text"), f"a block of {kind or 'no kind'}"
        if skipped or kind == "text":
            continue
        if kind == "python":
            parts.append(code)
            continue
        for line in code.splitlines():
            assert line.startswith("$ "), line
            parts.append(f"_subprocess.run({line[2:]!r}, shell=True, check=True)")
    return "\n".join(parts)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_runs(page, tmp_path):
    code = program(page)
    environment = {
        **os.environ,
        # `milepost` is the one that belongs to this Python.
        "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"],
    }
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]


def test_what_is_skipped_says_why():
    skipped = [m for page in PAGES for m in BLOCK.findall(page.read_text()) if m[0]]
    assert len(skipped) <= 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
