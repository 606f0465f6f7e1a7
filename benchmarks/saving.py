"""One table: what a save costs a training loop, beside the limits of the machine and the peers.

    python benchmarks/saving.py --output saving.md

A process makes one state (fp32 weights and Adam's moments, as `speed.py`) and saves it again
and again; contestants take turns in random order, and between their turns every number of the
state changes, or 1 % of its arrays, or none. The first round is not counted: it takes imports
and the first touch of memory. The limits are what the machine can do at best: `O_DIRECT` from
aligned buffers by two threads, then `fsync`; and a copy of the state by two threads into
memory that was used before.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import peers

os.environ.update(peers.ENVIRONMENT)

import safetensors.torch
import torch

import milepost
from milepost.buffers import BLOCK, aligned
from milepost.dtypes import byte_view
from milepost.storage.local import LocalStorage
from milepost.store import Store, prune

dcp: Any = importlib.import_module("torch.distributed.checkpoint")

PIECE = 16 << 20
LIMIT, COPY = "limit: `O_DIRECT`, two threads, `fsync`", "limit: copy of the state, two threads"
CHANGED, UNCHANGED, PART = "everything changed", "nothing changed", "1 % of the bytes changed"


class Contest:
    """One state, and everything that saves it."""

    def __init__(self, folder: Path, nbytes: int) -> None:
        self.folder = folder
        shapes = peers.state_shapes(peers.layer_widths(nbytes))
        self.state = {str(i): torch.from_numpy(peers.fresh(0, i, s)) for i, s in enumerate(shapes)}
        self.copy = {name: tensor.clone() for name, tensor in self.state.items()}
        self.nbytes = sum(tensor.nbytes for tensor in self.state.values())
        self.buffers = [aligned(PIECE, BLOCK) for _ in range(2)]
        for buffer in self.buffers:
            buffer[:] = 1
        self.checkpoint = milepost.Checkpoint(state=self.state)
        self.number = 0
        smallest = sorted(self.state, key=lambda name: self.state[name].nbytes)
        self.part, size = [], 0
        for name in smallest:
            if size < self.nbytes // 100:
                self.part.append(name)
                size += self.state[name].nbytes

    def change(self, names: list[str] | None = None) -> None:
        """Change every number of these arrays, or of all."""
        for name in self.state if names is None else names:
            self.state[name].add_(1)

    def path(self) -> str:
        self.number += 1
        return str(self.folder / str(self.number))

    # Each of the following returns the seconds that it took.

    def limit(self) -> float:
        path = self.path()

        def run() -> None:
            handle = os.open(path, os.O_CREAT | os.O_WRONLY | getattr(os, "O_DIRECT", 0))

            def write(number: int) -> None:
                os.pwrite(handle, byte_view(self.buffers[number % 2]), number * PIECE)

            with ThreadPoolExecutor(2) as pool:
                list(pool.map(write, range(self.nbytes // PIECE)))
            os.fsync(handle)
            os.close(handle)

        return timed(run, path)

    def copied(self) -> float:
        def copy(name: str) -> None:
            np.copyto(self.copy[name].numpy(), self.state[name].numpy())

        def run() -> None:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(copy, self.state))

        return timed(run)

    def milepost(self) -> float:
        self.change()
        return timed(lambda: self.checkpoint.save(self.folder / "store"))

    def milepost_unchanged(self) -> float:
        self.checkpoint.save(self.folder / "store")  # others have changed it meanwhile
        return timed(lambda: self.checkpoint.save(self.folder / "store"))

    def milepost_part(self) -> float:
        self.checkpoint.save(self.folder / "store")
        self.change(self.part)
        return timed(lambda: self.checkpoint.save(self.folder / "store"))

    def milepost_background(self) -> float:
        self.change()
        seconds = timed(lambda: self.checkpoint.save(self.folder / "store", background=True))
        self.checkpoint.wait()
        return seconds

    def safetensors(self) -> float:
        self.change()
        path = self.path()
        return timed(lambda: safetensors.torch.save_file(self.state, path))

    def safetensors_durable(self) -> float:
        self.change()
        path = self.path()
        return timed(lambda: safetensors.torch.save_file(self.state, path), path)

    def torch_durable(self) -> float:
        self.change()
        path = self.path()
        return timed(lambda: torch.save(self.state, path), path)

    def dcp(self) -> float:
        self.change()
        path = self.path()
        return timed(lambda: dcp.save(self.state, checkpoint_id=path, no_dist=True))


Row = tuple[str, str, Callable[[Contest], float]]
ROWS: list[Row] = [
    (LIMIT, "", Contest.limit),
    ("`milepost`", CHANGED, Contest.milepost),
    ("safetensors, then `fsync`", CHANGED, Contest.safetensors_durable),
    ("`torch.save`, then `fsync`", CHANGED, Contest.torch_durable),
    ("`torch.distributed.checkpoint`", CHANGED, Contest.dcp),
    ("safetensors, not durable", CHANGED, Contest.safetensors),
    ("`milepost`", PART, Contest.milepost_part),
    ("`milepost`", UNCHANGED, Contest.milepost_unchanged),
    (COPY, "", Contest.copied),
    ("`milepost` in the background: blocked", CHANGED, Contest.milepost_background),
]


def timed(action: Callable[[], object], synced: str | None = None) -> float:
    """Seconds, from a moment at which the disk has nothing left to write; then maybe a sync."""
    os.sync()
    began = time.perf_counter()
    action()
    if synced is not None:
        sync(synced)
    return time.perf_counter() - began


def sync(path: str | Path) -> None:
    """What it takes to be safe from a loss of power: the file, and the folder of its name."""
    for name in (path, os.path.dirname(path)):
        handle = os.open(name, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def run(folder: Path, options: argparse.Namespace) -> tuple[int, list[list[float]]]:
    contest = Contest(folder, round(options.megabytes * 1e6))
    chance = random.Random(options.seed)
    seconds: list[list[float]] = [[] for _ in ROWS]
    for number in range(options.rounds + 1):
        for index in chance.sample(range(len(ROWS)), len(ROWS)):
            found = ROWS[index][2](contest)
            if number:
                seconds[index].append(found)
        for path in folder.iterdir():
            if path.name not in ("store", ".gitignore"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        prune(Store.open(LocalStorage(folder / "store")), lambda store: [])
    return contest.nbytes, seconds


def table(nbytes: int, seconds: list[list[float]], options: argparse.Namespace) -> str:
    ours = statistics.median(seconds[1])
    lines = [
        f"{nbytes / 1e6:.0f} MB of state. Median of {options.rounds} rounds (lowest-highest), "
        f"ratio to a durable save by milepost; seed {options.seed}.",
        peers.machine(),
        "",
        "| | between saves | milliseconds | ratio |",
        "| --- | --- | ---: | ---: |",
    ]
    for (title, change, _), found in zip(ROWS, seconds, strict=True):
        middle = statistics.median(found)
        span = f"{middle * 1e3:.0f} ({min(found) * 1e3:.0f}-{max(found) * 1e3:.0f})"
        lines.append(f"| {title} | {change} | {span} | {middle / ours:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--megabytes", type=float, default=1000, help="size of the state")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument("--folder", default=".", help="on the disk to measure; left as it was")
    parser.add_argument("--output", help="a file that the table is written to, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.path.abspath(options.folder), prefix=".saving-") as own:
        # Large files come and go here: none of them may end up in a commit made meanwhile.
        (Path(own) / ".gitignore").write_text("*\n", encoding="utf-8")
        results = run(Path(own), options)
    peers.publish(table(*results, options), options.output)


if __name__ == "__main__":
    main()
