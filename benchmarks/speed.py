"""One table: what it costs to save and load the same state with milepost and with its peers.

    python benchmarks/speed.py --json build/speed.json

See README.md beside this file for how to read it. Each measurement runs in a process of its
own, so that no contestant inherits another's memory, threads or imports; contestants take
turns in random order, so that a slow minute of the machine falls on all of them alike. One of
the contestants is the machine: what its disk and its memory can do at best.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import xxhash

import measuring
from measuring import Peak, Samples, fastest, goal, median, span, use_free_memory
from milepost.bench import limits
from milepost.dtypes import byte_view
from peers import OURS, PEERS, Array, layer_widths, missing, state_shapes

WARM_UP_BYTES = 1_000_000
FLIPS = 8
LIMITS = "limits"
LIMIT_TITLES = {
    "direct": "write past the page cache, two threads, `fsync`",
    "buffered": "write through the page cache, one thread, `fsync`",
    "warm_read": "read from the page cache into used memory, two threads",
    "cold_read": "read from the disk into used memory, two threads",
    "copy": "copy in memory, two threads",
}


def measure(name: str, folder: str, nbytes: int, seed: int) -> dict[str, float]:
    """All that is measured of one contestant in one round. Runs in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        if name == LIMITS:
            return measure_limits(own, nbytes)
        small = PEERS[name]()
        cycle(small, f"{own}/small", WARM_UP_BYTES, seed)  # imports, threads, first-time code
        result = cycle(PEERS[name](), f"{own}/large", nbytes, seed)
        return result | {"noticed": flips_noticed(small, f"{own}/small", seed)}


def measure_limits(folder: str, nbytes: int) -> dict[str, float]:
    """What the machine can do. Everything is done once before, a little of it."""
    buffers = limits.used_buffers()
    source, target = limits.used(nbytes), limits.used(nbytes)
    limits.write(f"{folder}/warm-up", limits.PIECE_BYTES, buffers, direct=True)
    use_free_memory(nbytes)
    found = {}
    for name, direct in (("direct", True), ("buffered", False)):
        found[name] = limits.write(f"{folder}/{name}", nbytes, buffers, direct=direct)
    limits.fill_cache(f"{folder}/direct", buffers[0])
    found["warm_read"] = limits.read(f"{folder}/direct", [target])
    limits.drop_cache(f"{folder}/direct")
    found["cold_read"] = limits.read(f"{folder}/direct", [target])
    found["copy"] = limits.copy([source], [target])
    return found


def cycle(peer: Any, folder: str, nbytes: int, seed: int) -> dict[str, float]:
    """Save, sync, and load warm and cold, and check that what was loaded is what was saved."""
    os.mkdir(folder)
    peer.prepare(layer_widths(nbytes))
    peer.fill(seed)
    saved = digests(peer.arrays())
    use_free_memory(4 * nbytes)
    with Peak() as save_peak:
        limits.settle()  # what others have left to write is not ours to wait for
        began = time.perf_counter()
        peer.save(folder)
        returned = synced = time.perf_counter()
    if not peer.durable:
        measuring.sync_all(folder)
        synced = time.perf_counter()
    size = sum(map(os.path.getsize, limits.files_below(folder)))
    limits.fill_cache(folder, np.empty(limits.PIECE_BYTES, np.uint8))
    warm, load_peak = load(peer, folder, nbytes, saved)
    limits.settle()
    limits.drop_cache(folder)
    cold, _ = load(peer, folder, nbytes, saved)
    return {
        "save": returned - began,
        "durable": synced - began,
        "load": warm,
        "cold": cold,
        "save_memory": save_peak.nbytes,
        "load_memory": load_peak.nbytes,
        "size": size,
    }


def load(peer: Any, folder: str, nbytes: int, saved: list[str]) -> tuple[float, Peak]:
    peer.forget()
    use_free_memory(4 * nbytes)
    with Peak() as peak:
        began = time.perf_counter()
        peer.load(folder)
        seconds = time.perf_counter() - began
    if digests(peer.arrays()) != saved:
        raise SystemExit(f"{peer.title}: what was loaded is not what was saved")
    return seconds, peak


def digests(arrays: list[Array]) -> list[str]:
    return [xxhash.xxh3_128_hexdigest(byte_view(np.ascontiguousarray(array))) for array in arrays]


def flips_noticed(peer: Any, folder: str, seed: int) -> int:
    """Of `FLIPS` single bits flipped in the midst of the data, how many make a load fail."""
    path = max(limits.files_below(folder), key=os.path.getsize)
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


def table(samples: Samples, options: argparse.Namespace) -> str:
    """The results in Markdown, with what a reader needs to know to repeat them."""
    shapes = state_shapes(layer_widths(measuring.nbytes_of(options)))
    nbytes = sum(map(math.prod, shapes)) * 4
    note = (
        f"{nbytes / 1e6:.0f} MB of state in {len(shapes)} fp32 arrays. Milliseconds, median of "
        f"{options.rounds} rounds (lowest-highest), ratio to the first row's median; memory in MB "
        f"beside the state; seed {options.seed}."
    )
    head = ["", "save", "save, durable", "load, warm", "load, cold"]
    head += ["memory: save", "memory: load", "on disk", "flipped bits noticed"]
    rows = []
    for name, found in samples.items():
        if name == LIMITS:
            continue
        peer = PEERS[name]
        cells = [cell(samples, name, key) for key in ("save", "durable", "load", "cold")]
        cells += [
            f"{statistics.median(found[key]) / 1e6:.0f}" for key in ("save_memory", "load_memory")
        ]
        cells.append(f"{statistics.median(found['size']) / 1e6:.1f} MB")
        cells.append(f"{sum(found['noticed']):.0f} of {FLIPS * options.rounds}")
        if peer.durable:
            cells[1] = "the same: durable by itself"
        if not peer.saves:
            cells[0] = cells[1] = cells[4] = ""  # those of safetensors
        rows.append([peer.title, *cells])
    parts = [note, measuring.markdown(head, rows)]
    if LIMITS in samples:
        limit_rows = [
            [
                title,
                span(samples[LIMITS][key]),
                f"{nbytes / median(samples, LIMITS, key) / 1e9:.1f}",
            ]
            for key, title in LIMIT_TITLES.items()
        ]
        parts.append("The limits of the machine, measured in the same rounds:")
        parts.append(measuring.markdown(["", "milliseconds", "GB/s"], limit_rows))
    return "\n\n".join(parts)


def cell(samples: Samples, name: str, key: str) -> str:
    first = next(iter(samples))
    ratio = median(samples, name, key) / median(samples, first, key)
    return f"{span(samples[name][key])}, {ratio:.2f}x"


def goals(samples: Samples) -> dict[str, Any]:
    """What of goals.py these samples tell, as far as its contestants took part."""
    peers = [name for name in samples if name not in (*OURS, LIMITS)]
    found = {}

    def beside(key: str, ours: str, theirs: str, column: str, theirs_column: str = "") -> None:
        if {ours, theirs} <= samples.keys():
            a = median(samples, ours, column)
            b = median(samples, theirs, theirs_column or column)
            title = "the limit" if theirs == LIMITS else PEERS[theirs].title
            measured = f"{b / a:.2f}x: {a * 1e3:.0f} ms; {title} {b * 1e3:.0f} ms"
            found[key] = goal(b / a, measured)

    def memory(key: str, name: str, column: str) -> None:
        if name in samples and os.path.exists("/proc/self/status"):
            nbytes = median(samples, name, column)
            found[key] = goal(nbytes / 1e6, f"{nbytes / 1e6:.0f} MB")

    beside("restore_warm", "milepost", "safetensors", "load")
    beside("cold_limit", "milepost", LIMITS, "cold", "cold_read")
    beside("cold_runai", "milepost", "runai", "cold")
    if peers:
        beside("cold_peer", "milepost", fastest(samples, peers, "cold"), "cold")
    beside("keras_save", "milepost-keras", "keras", "save")
    beside("keras_load", "milepost-keras", "keras", "load")
    memory("memory_save", "milepost", "save_memory")
    memory("memory_restore", "milepost", "load_memory")
    if "milepost-background" in samples:
        nbytes = median(samples, "milepost-background", "save_memory")
        copies = nbytes / median(samples, "milepost-background", "size")
        found["memory_background"] = goal(copies, f"{copies:.2f} ({nbytes / 1e6:.0f} MB)")
    return found


def main() -> None:
    absent = missing()
    present = [*(name for name in PEERS if name not in absent), LIMITS]
    parser = measuring.parser(__doc__, rounds=4, megabytes=1000)
    parser.add_argument(
        "--peers", nargs="+", choices=[*PEERS, LIMITS], default=present, help="the contestants"
    )
    parser.add_argument("--one", choices=[*PEERS, LIMITS], help="one of them once, as JSON")
    options = parser.parse_args()
    if options.one:
        os.environ.update(measuring.ENVIRONMENT)
        nbytes = measuring.nbytes_of(options)
        print(json.dumps(measure(options.one, options.folder, nbytes, options.seed)))
        return
    with measuring.scratch(options) as folder:
        samples = measuring.in_rounds(__file__, options.peers, options, folder)
    text = table(samples, options)
    if absent:
        text += f"\n\nNot installed here: {', '.join(absent)}."
    measuring.publish(__file__, options, text, samples=samples, goals=goals(samples))


if __name__ == "__main__":
    main()
