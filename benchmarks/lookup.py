"""One table: one array of 16 MB out of a large store, or a large model file, that nobody has read.

    python benchmarks/lookup.py --json build/lookup.json

The files are taken out of the page cache before each turn; contestants take turns in random
order, and read another array each time. The time goes from opening the path to the array in
memory, checked by whoever checks. Imports are not in it: the first round is not counted.
"""

from __future__ import annotations

import importlib
import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np

import measuring
from measuring import Samples, goal, median, span

os.environ.update(measuring.ENVIRONMENT)

import safetensors
import torch

import milepost
from milepost.bench import limits

WIDTH = 2048  # of square fp32 matrices: 16.8 MB each
ROWS = {
    "limit": "limit: 16.8 MB read from the disk, two threads",
    "store": "`milepost.open(store).latest[name]`",
    "model": "`milepost.open(model)[name]`",
    "safetensors": "`safetensors.safe_open`, unverified",
    "torch": "`torch.load(mmap=True)`, unverified",
}


def large_model(layers: int) -> Any:
    """A model of matrices, all different."""
    made = [torch.nn.Linear(WIDTH, WIDTH, bias=False, device="meta") for _ in range(layers)]
    for i, layer in enumerate(made):
        values = np.random.default_rng(i).standard_normal((WIDTH, WIDTH), np.float32)
        layer.weight = torch.nn.Parameter(torch.from_numpy(values))
    return torch.nn.Sequential(*made)


def contestants(folder: str, model: Any) -> dict[str, Callable[[str], float]]:
    """What saves the model, and then reads one array of it: each returns the seconds."""
    milepost.Checkpoint(model=model).save(f"{folder}/store")
    milepost.save_model(model, f"{folder}/model.safetensors")
    torch.save(model.state_dict(), f"{folder}/model.pt")
    memory = limits.used(4 * WIDTH * WIDTH)

    def from_store(name: str) -> object:
        opened: Any = milepost.open(f"{folder}/store")
        with opened.latest as snapshot:
            return np.asarray(snapshot[f"model/{name}"])

    def from_model(name: str) -> object:
        opened: Any = milepost.open(f"{folder}/model.safetensors")
        with opened as snapshot:
            return np.asarray(snapshot[name])

    def from_safetensors(name: str) -> object:
        tool: Any = importlib.import_module("safetensors")
        with tool.safe_open(f"{folder}/model.safetensors", "numpy") as file:
            return np.array(file.get_tensor(name))

    def from_torch(name: str) -> object:
        return torch.load(f"{folder}/model.pt", mmap=True)[name].clone()

    def timed(action: Callable[[str], object]) -> Callable[[str], float]:
        return lambda name: limits.timed(lambda: action(name))

    return {
        "limit": lambda name: limits.read(f"{folder}/model.pt", [memory]),
        "store": timed(from_store),
        "model": timed(from_model),
        "safetensors": timed(from_safetensors),
        "torch": timed(from_torch),
    }


def main() -> None:
    options = measuring.parser(__doc__, rounds=15, megabytes=4000).parse_args()
    layers = max(1, round(options.megabytes * 1e6 / WIDTH**2 / 4))
    samples: Samples = {name: {"seconds": []} for name in ROWS}
    chance = random.Random(options.seed)
    with measuring.scratch(options) as folder:
        found = contestants(folder, large_model(layers))
        for number in range(options.rounds + 1):
            for name in chance.sample(list(found), len(found)):
                limits.settle()
                limits.drop_cache(folder)
                seconds = found[name](f"{chance.randrange(layers)}.weight")
                if number:
                    samples[name]["seconds"].append(seconds)
    note = (
        f"{layers} arrays of 16.8 MB, {layers * WIDTH**2 * 4 / 1e6:.0f} MB. Median of "
        f"{options.rounds} rounds (lowest-highest); safetensors {safetensors.__version__}."
    )
    rows = [[title, span(samples[name]["seconds"], digits=1)] for name, title in ROWS.items()]
    goals = {}
    for name in ("store", "model"):
        value, limit = (median(samples, key, "seconds") * 1e3 for key in (name, "limit"))
        goals[f"lookup_{name}"] = goal(value, f"{value:.1f} ms; the limit {limit:.1f} ms")
    text = f"{note}\n\n{measuring.markdown(['', 'milliseconds'], rows)}"
    measuring.publish(__file__, options, text, samples=samples, goals=goals)


if __name__ == "__main__":
    main()
