"""One table: what 100 checkpoints of a fine-tune take on the disk, in sizes of the first one.

    python benchmarks/finetune.py --json build/finetune.json

One hundredth of the parameters is trained, and the rest is frozen and saved with it each time,
as everybody does. Once by plain SGD, which keeps nothing beside the parameters, and once by
Adam, whose two moments for each trained parameter change with it. No time of this matters.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

import measuring
from measuring import goal
from milepost import Checkpoint
from milepost.bench import limits

LAYERS = 8


def sizes(folder: str, nbytes: int, checkpoints: int, moments: int) -> tuple[int, int]:
    """Bytes on the disk after the first checkpoint, and after the last."""
    chance = np.random.default_rng(0)
    count = nbytes // 4 // LAYERS
    frozen = {str(i): chance.standard_normal(count * 99 // 100, np.float32) for i in range(LAYERS)}
    trained: dict[str, Any] = {
        f"{i}.{kind}": chance.standard_normal(count // 100, np.float32)
        for i in range(LAYERS)
        for kind in range(1 + moments)
    }
    checkpoint = Checkpoint(backbone=frozen, trained=trained)
    first = 0
    for number in range(checkpoints):
        for array in trained.values():
            np.add(array, 1e-3 * chance.standard_normal(array.shape, np.float32), out=array)
        checkpoint.save(folder)
        if number == 0:
            first = on_disk(folder)
    return first, on_disk(folder)


def on_disk(folder: str) -> int:
    return sum(map(os.path.getsize, limits.files_below(folder)))


def main() -> None:
    parser = measuring.parser(__doc__, rounds=1, megabytes=100)
    parser.add_argument("--checkpoints", type=int, default=100)
    options = parser.parse_args()
    rows, ratios = [], {}
    with measuring.scratch(options) as folder:
        for title, moments in (("SGD", 0), ("Adam, with its moments", 2)):
            path = f"{folder}/{moments}"
            nbytes = measuring.nbytes_of(options)
            first, last = sizes(path, nbytes, options.checkpoints, moments)
            ratios[title] = last / first
            rows.append([title, f"{first / 1e6:.1f} MB", f"{last / 1e6:.1f} MB"])
            rows[-1].append(f"{last / first:.2f}")
    note = f"{options.checkpoints} checkpoints, 1 % of the parameters trained."
    head = ["trained by", "the first", "all", "in sizes of one"]
    sgd, adam = ratios.values()
    goals = {"finetune": goal(sgd, f"{sgd:.2f} by SGD; {adam:.2f} with Adam's moments")}
    text = f"{note}\n\n{measuring.markdown(head, rows)}"
    measuring.publish(__file__, options, text, samples={"sizes of one": ratios}, goals=goals)


if __name__ == "__main__":
    main()
