"""Every benchmark, one after the other, and the page of them all: what `make bench` runs.

    python benchmarks/run.py full     most of an hour; writes docs/benchmarks.md
    python benchmarks/run.py small    a few minutes; to see that all of it works

Results are kept in build/bench/, one JSON file a program; `--only NAME ...` measures some of them
anew, and makes the page of these and of what was kept.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import measuring

HERE = Path(__file__).parent
# Program -> its options in a small run; without any, it is not part of one.
SMALL = {
    "saving": "--rounds 1 --megabytes 8",
    "speed": "--rounds 1 --megabytes 4",
    "training": "--rounds 1 --steps 1 --megabytes 2 --tokens 128",
    "lookup": "--rounds 1 --megabytes 64",
    "leaves": "--rounds 1 --megabytes 1",
    "finetune": "--megabytes 4 --checkpoints 10",
    "growth": "--rounds 1 --sizes 10,20",
    "compaction": "--rounds 1 --megabytes 6",
    "crash": "--rounds 1 --megabytes 2",
    "change": "--rounds 1",
}
# A full one takes what each program has by itself, but for this: so it ends within the hour.
FULL = {
    "saving": "--rounds 5",
    "speed": "--rounds 3 --megabytes 400",
    "training": "--rounds 6",
    "leaves": "--rounds 2",
    "growth": "--rounds 31",
    "compaction": "--rounds 3",
    "crash": "--rounds 4",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("size", choices=("full", "small"))
    parser.add_argument("--only", nargs="+", choices=SMALL, default=list(SMALL))
    parser.add_argument("--folder", default=".", help="on the disk to measure; left as it was")
    options = parser.parse_args()
    results = Path("build/bench") / options.size
    os.makedirs(results, exist_ok=True)
    for name in options.only:
        program = HERE / f"{name}.py"
        if not program.exists() or (options.size == "small" and not SMALL[name]):
            continue
        arguments = (SMALL if options.size == "small" else FULL).get(name, "").split()
        began = time.monotonic()
        command = [sys.executable, str(program), *arguments, "--folder", options.folder]
        command += ["--json", str(results / f"{name}.json")]
        subprocess.run(command, check=True, env=os.environ | measuring.ENVIRONMENT)
        print(f"{name}: {time.monotonic() - began:.0f} s\n", file=sys.stderr)
    page = Path("docs/benchmarks.md") if options.size == "full" else results / "benchmarks.md"
    command = [sys.executable, str(HERE / "report.py"), str(results), "--output", str(page)]
    if options.size == "small":
        command += ["--note", "**A small run, to see that it works: the numbers mean nothing.**"]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
