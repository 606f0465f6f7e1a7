"""How many machine instructions a save and a restore take for one small leaf more.

Times on a shared machine differ by more than what a careless loop costs; instructions do not.
valgrind's callgrind counts them, on any processor and without any rights: everything that the
process executes, in all its threads, Python's own and C's. One process saves and restores N
leaves, then 2 N; the difference is what N leaves cost, and start-up, imports and whatever
happens once a save have no part in it. Two runs differ by less than 0.1 % here.

When a test fails though the cost is wanted, or because it became cheaper, write what the message
says into `BUDGETS`. Counts depend on the processor's kind, on Python's version and on NumPy's
(see constraints.txt); where no budget is known, the tests are skipped, and a new line makes one.
"""

from __future__ import annotations

import compileall
import os
import platform
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import milepost

# Instructions for a leaf of 64 bytes, by the kind of processor and Python.
BUDGETS = {
    ("x86_64", "3.11"): {"save": 190_700, "restore": 187_500},
}
# What other versions of a library or of a processor may add, and less than a loop would.
TOLERANCE = 1.03
# A budget that is so much too high would let the next loop pass.
SLACK = 0.85
LEAVES = 200
KIND = (platform.machine(), ".".join(map(str, sys.version_info[:2])))

PROGRAM = """
    import os, sys, tempfile
    import numpy as np
    import milepost

    def mark():
        os.getpgrp()  # at whose beginning callgrind writes down its count

    many = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        for count in (many // 4, many, 2 * many):  # the first takes what is done once
            state = {f"layer{i:05}": np.full(16, i, np.float32) for i in range(count)}
            checkpoint = milepost.Checkpoint(state=state)
            mark()
            checkpoint.save(f"{folder}/{count}")
            mark()
            checkpoint = milepost.Checkpoint(state=state)
            mark()
            checkpoint.restore(f"{folder}/{count}")
            mark()
"""


@pytest.fixture(scope="module")
def counted(tmp_path_factory) -> dict[str, float]:
    """Instructions for each leaf more."""
    if KIND not in BUDGETS:
        pytest.skip(f"no budget for {KIND} in tests/test_instructions.py")
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        pytest.skip("valgrind is not installed (Debian: apt-get install valgrind)")
    # As installed: without, a save takes a twentieth less, and a restore a twentieth more.
    compileall.compile_dir(os.path.dirname(milepost.__file__), quiet=1)
    folder = tmp_path_factory.mktemp("callgrind")
    command = [valgrind, "-q", "--tool=callgrind", "--dump-before=getpgrp"]
    command += [f"--callgrind-out-file={folder / 'out'}", sys.executable, "-c"]
    finished = subprocess.run(
        [*command, textwrap.dedent(PROGRAM), str(LEAVES)],
        # Random hashes would change how dicts and sets are filled.
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    # One file a mark, of what was executed since the one before.
    parts = [_total(folder / f"out.{number}") for number in range(1, 13)]
    saves, restores = parts[1::4], parts[3::4]
    return {
        "save": (saves[2] - saves[1]) / LEAVES,
        "restore": (restores[2] - restores[1]) / LEAVES,
    }


def _total(dump: Path) -> int:
    [line] = [line for line in dump.read_text().splitlines() if line.startswith("totals:")]
    return int(line.split()[1])


@pytest.mark.parametrize("verb", ["save", "restore"])
def test_a_leaf_costs_no_more_instructions_than_its_budget(counted, verb):
    budget, found = BUDGETS[KIND][verb], counted[verb]
    print(f"{verb}: {found:.0f} instructions a leaf, budget {budget}")
    assert found <= budget * TOLERANCE, (
        f"a {verb} takes {found:.0f} instructions a leaf, {found / budget:.2f} times its budget of "
        f"{budget}: find what is done for every leaf, or, if it is wanted, set the budget"
    )
    assert found >= budget * SLACK, (
        f"a {verb} takes only {found:.0f} instructions a leaf, its budget is {budget}: set the "
        "budget to that, so that it guards what was won"
    )
