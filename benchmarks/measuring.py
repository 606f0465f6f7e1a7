"""What the benchmark programs share: options, rounds in processes of their own, memory, results.

Every program prints a Markdown table, and with `--json FILE` writes a document that `report.py`
makes docs/benchmarks.md of:

    program   its name, without `.py`
    options   what it was called with
    machine   one line on where it ran
    table     the Markdown table, with a line on sizes and rounds above
    samples   row -> column -> numbers, one a round
    goals     key in goals.py -> {"value": number, "measured": text}; a key that is not in
              goals.py has "what", "goal" and "met" as well
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Must be set before the frameworks are imported, which only the measuring processes do.
ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
    "RUNAI_STREAMER_LOG_LEVEL": "ERROR",
}
PACKAGES = (
    "milepost torch safetensors tensorflow tensorflow-cpu keras orbax-checkpoint jax numpy "
    "torchsnapshot fastsafetensors runai-model-streamer"
)
# row -> column -> one number a round
Samples = dict[str, dict[str, list[float]]]


def parser(doc: str | None, *, rounds: int, megabytes: float) -> argparse.ArgumentParser:
    """The options that every program has."""
    found = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    found.add_argument("--rounds", type=int, default=rounds)
    found.add_argument("--megabytes", type=float, default=megabytes, help="size of the state")
    found.add_argument("--seed", type=int, default=0, help="of the order and of the values")
    found.add_argument("--folder", default=".", help="on the disk to measure; left as it was")
    found.add_argument("--json", help="a file for the results, from which report.py makes a page")
    return found


def nbytes_of(options: argparse.Namespace) -> int:
    nbytes: int = round(options.megabytes * 1e6)
    return nbytes


@contextlib.contextmanager
def scratch(options: argparse.Namespace) -> Iterator[str]:
    """A folder on the disk to measure, which is gone at the end."""
    above = os.path.abspath(options.folder)
    with tempfile.TemporaryDirectory(dir=above, prefix=".speed-") as folder:
        # Large files come and go here: none of them may end up in a commit made meanwhile.
        Path(folder, ".gitignore").write_text("*\n", encoding="utf-8")
        yield folder


def in_process(
    program: str, name: str, options: argparse.Namespace, folder: str, **changed: object
) -> Any:
    """What `program --one NAME`, with the same options, prints as JSON in its last line.

    A process of its own inherits nobody's memory, threads or imports.
    """
    command = [sys.executable, program, "--one", name, "--folder", folder]
    for option in ("rounds", "megabytes", "seed"):
        command += [f"--{option}", str(changed.get(option, getattr(options, option)))]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | ENVIRONMENT
    )
    if done.returncode != 0:
        raise SystemExit(f"{name} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def in_rounds(
    program: str, names: Sequence[str], options: argparse.Namespace, folder: str
) -> Samples:
    """Measure every contestant once a round, each in its own process, in an order drawn anew."""
    chance = random.Random(options.seed)
    samples: Samples = {name: {} for name in names}
    for number in range(options.rounds):
        order = chance.sample(names, len(names))
        print(f"round {number + 1} of {options.rounds}: {', '.join(order)}", file=sys.stderr)
        for name in order:
            found = in_process(program, name, options, folder, seed=options.seed + number)
            for column, value in found.items():
                samples[name].setdefault(column, []).append(value)
    return samples


def use_free_memory(nbytes: int) -> None:
    """Touch so much memory, more than any contestant needs, and free it again.

    A virtual machine may give free memory back to its host, and then pays for it when it is
    used next, ten times what writing there costs: by chance, and not the contestant's doing.
    """
    gc.collect()
    np.ones(nbytes, np.uint8)


def sync_all(path: str) -> None:
    """What a user has to add to be safe from a loss of power: sync every file and folder."""
    # Here, because formats.py has to stay small in memory.
    from milepost.bench.limits import files_below

    folders = [at for at, _, _ in os.walk(path)] if os.path.isdir(path) else [path]
    for name in [*files_below(path), *folders, os.path.dirname(path)]:
        handle = os.open(name, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


class Peak:
    """The most memory that a block used beyond what it had before: bytes, on Linux only."""

    nbytes: float = 0

    def __enter__(self) -> Peak:
        gc.collect()
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
        self._before = _resident("VmRSS")
        return self

    def __exit__(self, *error: object) -> None:
        self.nbytes = max(0, _resident("VmHWM") - self._before)


def _resident(key: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return 0


def median(samples: Samples, row: str, column: str) -> float:
    return statistics.median(samples[row][column])


def fastest(samples: Samples, rows: Sequence[str], column: str) -> str:
    """Of these rows, the one with the lowest median."""
    known = [row for row in rows if row in samples]
    return min(known, key=lambda row: median(samples, row, column))


def span(values: Sequence[float], scale: float = 1e3, digits: int = 0) -> str:
    """`404 (380-604)`: the median, the lowest and the highest. Seconds become milliseconds."""
    middle, low, high = (scale * f(values) for f in (statistics.median, min, max))
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def goal(value: float, measured: str) -> dict[str, Any]:
    return {"value": value, "measured": measured}


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table whose first column is words, and whose others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def publish(
    program: str,
    options: argparse.Namespace,
    table: str,
    *,
    samples: Mapping[str, Any] | None = None,
    goals: Mapping[str, Any] | None = None,
) -> None:
    """Print the table, and write the document if a file is named."""
    print(machine(), table, sep="\n\n")
    if not options.json:
        return
    document = {
        "program": os.path.basename(program).removesuffix(".py"),
        "options": {k: str(v) for k, v in vars(options).items() if k not in ("json", "one")},
        "machine": machine(),
        "table": table,
        "samples": samples or {},
        "goals": goals or {},
    }
    os.makedirs(os.path.dirname(os.path.abspath(options.json)), exist_ok=True)
    Path(options.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def machine(packages: str = PACKAGES) -> str:
    """What a reader needs to know of the machine to repeat a measurement."""
    installed = {
        d.name.lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()
    }
    versions = [f"{name} {installed[name]}" for name in packages.split() if name in installed]
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {', '.join(versions)}."
    )
