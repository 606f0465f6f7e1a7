"""One table: what it costs to save and load the same state with milepost and with its peers.

    python benchmarks/speed.py --output speed.md

See README.md beside this file for how to read it. Each measurement runs in a process of its
own, so that no contestant inherits another's memory, threads or imports; contestants take
turns in random order, so that a slow minute of the machine falls on all of them alike.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

import peers
from peers import PEERS, fresh, layer_widths, state_shapes

WARM_UP_BYTES = 1_000_000
FLIPS = 16


def measure(name: str, folder: str, nbytes: int, seed: int) -> dict[str, float]:
    """All that is measured of one contestant in one round. Runs in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        small = PEERS[name]()
        cycle(small, f"{own}/small", WARM_UP_BYTES, seed)  # imports, threads, first-time code
        result = cycle(PEERS[name](), f"{own}/large", nbytes, seed)
        return result | {"noticed": flips_noticed(small, f"{own}/small", seed)}


def cycle(peer: Any, folder: str, nbytes: int, seed: int) -> dict[str, float]:
    """Save, sync and load once, and check that what was loaded is what was saved."""
    os.mkdir(folder)
    peer.prepare(layer_widths(nbytes))
    peer.fill(seed)
    use_free_memory(nbytes)
    os.sync()  # what others have left to write is not ours to wait for
    began = time.perf_counter()
    peer.save(folder)
    saved = time.perf_counter()
    if not peer.durable:
        sync_all(folder)
    synced = saved if peer.durable else time.perf_counter()
    peer.forget()
    # Reading the files gives their size, and warms the page cache.
    size = sum(np.fromfile(path, np.uint8).size for path in files_below(folder))
    use_free_memory(nbytes)
    loading = time.perf_counter()
    peer.load(folder)
    loaded = time.perf_counter()
    for i, array in enumerate(peer.arrays()):
        if not np.array_equal(array, fresh(seed, i, array.shape)):
            raise SystemExit(f"{peer.title}: array {i} was not loaded as it was saved")
    times = {"save": saved - began, "durable": synced - began, "load": loaded - loading}
    return times | {"size": size}


def use_free_memory(nbytes: int) -> None:
    """Touch as much memory as any contestant needs beside its state, and free it again.

    A virtual machine may give free memory back to its host, and then pays for it when it is
    used next, ten times what writing there costs: by chance, and not the contestant's doing.
    """
    gc.collect()
    np.ones(4 * nbytes, np.uint8)


def flips_noticed(peer: Any, folder: str, seed: int) -> int:
    """Of `FLIPS` single bits flipped in the midst of the data, how many make a load fail."""
    path = max(files_below(folder), key=os.path.getsize)
    data, noticed = np.memmap(path, np.uint8, "r+"), 0
    middle = range(data.size // 4, data.size * 3 // 4)
    for position in random.Random(seed).sample(middle, FLIPS):
        data[position] ^= 16
        peer.forget()
        try:
            peer.load(folder)
        except KeyboardInterrupt:
            raise
        except BaseException:  # of which torch's CheckpointException is one
            noticed += 1
        data[position] ^= 16
    return noticed


def files_below(folder: str) -> list[str]:
    return [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]


def sync_all(folder: str) -> None:
    """What a user has to add to be safe from a loss of power: sync every file and folder."""
    for path in files_below(folder) + [at for at, _, _ in os.walk(folder)]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


Results = dict[str, list[dict[str, float]]]


def run_rounds(folder: str, options: argparse.Namespace) -> Results:
    """Measure every contestant in every round, in an order that differs from round to round."""
    chance = random.Random(options.seed)
    results: Results = {name: [] for name in options.peers}
    for number in range(options.rounds):
        order = chance.sample(options.peers, len(options.peers))
        print(f"round {number + 1} of {options.rounds}: {', '.join(order)}", file=sys.stderr)
        for name in order:
            command = [sys.executable, __file__, "--one", name, "--folder", folder]
            command += ["--megabytes", str(options.megabytes), "--seed", str(options.seed + number)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(f"{name} failed:\n{done.stdout}{done.stderr}")
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
    return results


def table(results: Results, options: argparse.Namespace) -> str:
    """The results in Markdown, with what a reader needs to know to repeat them."""
    shapes = state_shapes(layer_widths(round(options.megabytes * 1e6)))
    lines = [
        f"{sum(map(math.prod, shapes)) * 4 / 1e6:.0f} MB of state in {len(shapes)} fp32 arrays. "
        f"Median of {options.rounds} rounds (lowest-highest), ratio to the first row's median; "
        f"seed {options.seed}.",
        peers.machine(),
        "",
        "| | save | save, durable | load | on disk | flipped bits noticed |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, measured in results.items():
        cells = [PEERS[name].title, *(cell(results, name, k) for k in ("save", "durable", "load"))]
        if PEERS[name].durable:
            cells[2] = "the same: durable by itself"
        cells.append(f"{statistics.median(r['size'] for r in measured) / 1e6:.1f} MB")
        cells.append(f"{sum(r['noticed'] for r in measured)} of {FLIPS * len(measured)}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(results: Results, name: str, key: str) -> str:
    seconds = [result[key] for result in results[name]]
    middle = statistics.median(seconds)
    first = next(iter(results.values()))
    ratio = middle / statistics.median(result[key] for result in first)
    return f"{middle:.2f} s ({min(seconds):.2f}-{max(seconds):.2f}), {ratio:.2f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=400, help="size of the state")
    parser.add_argument("--seed", type=int, default=0, help="of the order and of the values")
    parser.add_argument("--folder", default=".", help="on the disk to measure; left as it was")
    parser.add_argument("--output", help="a file that the table is written to, too")
    parser.add_argument(
        "--peers", nargs="+", choices=PEERS, default=list(PEERS), help="the contestants"
    )
    parser.add_argument("--one", choices=PEERS, help="measure one contestant once, print JSON")
    options = parser.parse_args()
    folder = os.path.abspath(options.folder)
    if options.one:
        os.environ.update(peers.ENVIRONMENT)
        nbytes = round(options.megabytes * 1e6)
        print(json.dumps(measure(options.one, folder, nbytes, options.seed)))
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix=".speed-") as own:
        # Large files come and go here: none of them may end up in a commit made meanwhile.
        with open(f"{own}/.gitignore", "w", encoding="utf-8") as file:
            file.write("*\n")
        results = run_rounds(own, options)
    peers.publish(table(results, options), options.output)


if __name__ == "__main__":
    main()
