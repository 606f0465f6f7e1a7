"""One table: what milepost costs as a store grows, from 10 checkpoints to 10,000.

    python benchmarks/growth.py --json build/bench/full/growth.json

One run of saves makes the stores: of a state of 4 MB in 20 arrays, of which one small one
changes between saves; the store is copied when it has 10 checkpoints, 100, 1,000 and 10,000.
Then every action is measured in every store, in random order, again and again. The first round
is not counted. What a growing store may cost is the ratio to the smallest. Few rounds would make
that the noise of a millisecond; but each adds three checkpoints, to the smallest store too.
"""

from __future__ import annotations

import argparse
import gc
import random
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import numpy as np

import measuring
import milepost
from milepost import Checkpoint, CheckpointManager, KeepBest, KeepEvery
from milepost.cli.log import log

LEAVES, NBYTES, CHANGING = 20, 4_000_000, 250


class Run:
    """A training loop, and the store that it saves to."""

    def __init__(self, folder: Path) -> None:
        draw = np.random.default_rng(0)
        size = NBYTES // 4 // (LEAVES - 1)
        self.state = {
            f"layer{i}": draw.random(size, np.float32) if i else np.zeros(CHANGING, np.float32)
            for i in range(LEAVES)
        }
        self.folder = folder
        self.checkpoint = Checkpoint(state=self.state)
        keep = KeepEvery(1) | KeepBest("loss")
        self.manager = CheckpointManager(self.checkpoint, folder, keep=keep, on_sigterm=False)
        self.step = 0

    def change(self) -> None:
        self.step += 1
        self.state["layer0"][:] = self.step

    def save(self) -> None:
        self.checkpoint.save(self.folder, metrics={"loss": 1 / self.step})

    def save_step(self) -> None:
        self.checkpoint.save(self.folder, step=self.step, metrics={"loss": 1 / self.step})

    def save_managed(self) -> None:
        self.manager.save(self.step, metrics={"loss": 1 / self.step})

    def restore(self) -> None:
        self.checkpoint.restore(self.folder)

    def restore_step(self) -> None:
        self.checkpoint.restore(self.folder, step=self.step - 1)

    def latest(self) -> None:
        with milepost.open(self.folder).latest:  # type: ignore[union-attr]
            pass

    def log_ten(self) -> None:
        self._log("-n", "10")

    def log(self) -> None:
        self._log()

    def _log(self, *options: str) -> None:
        result = click.testing.CliRunner().invoke(log, [str(self.folder), *options])
        assert result.exit_code == 0, result.output


ROWS: list[tuple[str, Callable[[Run], None]]] = [
    ("`save(path)`", Run.save),
    ("`save(path, step=N)`", Run.save_step),
    ("a manager's save, with `KeepEvery` and `KeepBest`", Run.save_managed),
    ("`restore(path)`", Run.restore),
    ("`restore(path, step=N)`", Run.restore_step),
    ("`milepost.open(path).latest`", Run.latest),
    ("`milepost log -n 10`", Run.log_ten),
    ("`milepost log`, all", Run.log),
]


def build(folder: Path, sizes: list[int]) -> list[Run]:
    """Stores of so many checkpoints: one that grows, and its copies on the way."""
    runs = []
    run = Run(folder / "growing")
    for size in sizes:
        while run.step < size:
            run.change()
            run.save()
        copy = Run(folder / str(size))
        shutil.copytree(run.folder, copy.folder)
        copy.step = size
        runs.append(copy)
    shutil.rmtree(run.folder)
    return runs


def measure(runs: list[Run], rounds: int, seed: int) -> list[list[list[float]]]:
    """Seconds, by row, by store, by round."""
    chance = random.Random(seed)
    seconds: list[list[list[float]]] = [[[] for _ in runs] for _ in ROWS]
    pairs = [(row, store) for row in range(len(ROWS)) for store in range(len(runs))]
    for number in range(rounds + 1):
        for row, store in chance.sample(pairs, len(pairs)):
            if ROWS[row][1] is Run.log and number > 3:
                continue  # it reads every manifest
            runs[store].change()
            gc.collect()
            began = time.perf_counter()
            ROWS[row][1](runs[store])
            if number:
                seconds[row][store].append(time.perf_counter() - began)
            if "save" not in ROWS[row][1].__name__:
                runs[store].step -= 1
    return seconds


def table(sizes: list[int], seconds: list[list[list[float]]], options: argparse.Namespace) -> str:
    note = (
        f"{NBYTES / 1e6:.0f} MB of state in {LEAVES} arrays. Milliseconds, median of "
        f"{options.rounds} rounds, each of which adds 3 checkpoints, and the ratio to the smallest "
        f"store; seed {options.seed}."
    )
    rows = []
    for (title, _), row in zip(ROWS, seconds, strict=True):
        middles = [statistics.median(found) for found in row]
        rows.append([title, *(f"{1e3 * m:.1f} ({m / middles[0]:.2f})" for m in middles)])
    head = ["checkpoints", *(f"{size:,}" for size in sizes)]
    return f"{note}\n\n{measuring.markdown(head, rows)}"


def goals(seconds: list[list[list[float]]]) -> dict[str, Any]:
    """The worst ratio of the largest store to the smallest, of all but `log` of everything."""
    ratios = {
        title: statistics.median(row[-1]) / statistics.median(row[0])
        for (title, action), row in zip(ROWS, seconds, strict=True)
        if action is not Run.log  # which has more to list
    }
    worst = max(ratios, key=lambda title: ratios[title])
    return {"growth": measuring.goal(ratios[worst], f"{ratios[worst]:.2f}x at most: {worst}")}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sizes", default="10,100,1000,10000", help="of the stores, ascending")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument("--folder", default=".", help="on the disk to measure; left as it was")
    parser.add_argument("--json", help="a file for the results, from which report.py makes a page")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    with measuring.scratch(options) as own:
        seconds = measure(build(Path(own), sizes), options.rounds, options.seed)
    samples = {
        title: dict(zip(map(str, sizes), row, strict=True))
        for (title, _), row in zip(ROWS, seconds, strict=True)
    }
    text = table(sizes, seconds, options)
    measuring.publish(__file__, options, text, samples=samples, goals=goals(seconds))


if __name__ == "__main__":
    main()
