"""One table: a state of very many small arrays, saved and restored.

    python benchmarks/leaves.py --json build/leaves.json

Arrays of 1 KB in one dict. Each contestant of each round runs in a process of its own, as in
`speed.py`, and does everything once before with a hundredth of the arrays. Saves are durable,
by `fsync` where the tool does not sync; loads are warm, and the values are compared after.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

import measuring
import peers
from measuring import Samples, fastest, goal, median, span
from milepost import Checkpoint
from milepost.bench import limits

LEAF_BYTES = 1024
State = dict[str, Any]


def milepost_save(state: State, folder: str) -> None:
    Checkpoint(state=state).save(f"{folder}/store")


def milepost_load(state: State, folder: str) -> State:
    Checkpoint(state=state).restore(f"{folder}/store")
    return state


def safetensors_save(state: State, folder: str) -> None:
    importlib.import_module("safetensors.numpy").save_file(state, f"{folder}/state.safetensors")


def safetensors_load(state: State, folder: str) -> State:
    load: Any = importlib.import_module("safetensors.numpy").load_file
    found: State = load(f"{folder}/state.safetensors")
    for name, array in found.items():
        state[name][...] = array
    return state


def torch_save(state: State, folder: str) -> None:
    torch = importlib.import_module("torch")
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    torch.save(tensors, f"{folder}/state.pt")


def torch_load(state: State, folder: str) -> State:
    torch = importlib.import_module("torch")
    for name, tensor in torch.load(f"{folder}/state.pt").items():
        state[name][...] = tensor.numpy()
    return state


def npz_save(state: State, folder: str) -> None:
    save: Any = np.savez
    save(f"{folder}/state.npz", **state)


def npz_load(state: State, folder: str) -> State:
    with np.load(f"{folder}/state.npz") as file:
        for name in file.files:
            state[name][...] = file[name]
    return state


# Its name in the table, its save and its load.
Contestant = tuple[str, Callable[[State, str], None], Callable[[State, str], State]]
CONTESTANTS: dict[str, Contestant] = {
    "milepost": ("`milepost.Checkpoint`", milepost_save, milepost_load),
    "safetensors": ("`safetensors.numpy`", safetensors_save, safetensors_load),
    "torch": ("`torch.save` / `torch.load`", torch_save, torch_load),
    "npz": ("`numpy.savez` / `numpy.load`", npz_save, npz_load),
}


def measure(name: str, count: int, folder: str) -> dict[str, float]:
    """Both times of one contestant, in seconds."""
    _, save, load = CONTESTANTS[name]
    shape = (LEAF_BYTES // 4,)
    state = {f"layer{i}.weight": peers.fresh(0, i, shape) for i in range(count)}
    measuring.use_free_memory(4 * count * LEAF_BYTES)

    def saved() -> None:
        save(state, folder)
        if name != "milepost":
            measuring.sync_all(folder)

    seconds = {"save": limits.timed(saved)}
    limits.fill_cache(folder, np.empty(limits.PIECE_BYTES, np.uint8))
    for array in state.values():
        array[...] = 0
    seconds["restore"] = limits.timed(lambda: load(state, folder))
    for i, array in enumerate(state.values()):
        if not np.array_equal(array, peers.fresh(0, i, shape)):
            raise SystemExit(f"{name}: array {i} was not loaded as it was saved")
    return seconds


def table(samples: Samples, count: int, options: argparse.Namespace) -> str:
    note = (
        f"{count:,} arrays of {LEAF_BYTES} bytes. Milliseconds, median of {options.rounds} rounds "
        "(lowest-highest)."
    )
    rows = [
        [CONTESTANTS[name][0], span(found["save"]), span(found["restore"])]
        for name, found in samples.items()
    ]
    return f"{note}\n\n{measuring.markdown(['', 'save, durable', 'restore, warm'], rows)}"


def main() -> None:
    parser = measuring.parser(__doc__, rounds=3, megabytes=102.4)
    parser.add_argument("--one", choices=CONTESTANTS, help="this one once, as JSON")
    options = parser.parse_args()
    count = measuring.nbytes_of(options) // LEAF_BYTES
    if options.one:
        with tempfile.TemporaryDirectory(dir=options.folder) as small:
            measure(options.one, max(1, count // 100), small)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            print(json.dumps(measure(options.one, count, folder)))
        return
    with measuring.scratch(options) as folder:
        samples = measuring.in_rounds(__file__, list(CONTESTANTS), options, folder)
    goals = {}
    others = [name for name in samples if name != "milepost"]
    for verb in ("save", "restore"):
        peer = fastest(samples, others, verb)
        ours, theirs = median(samples, "milepost", verb), median(samples, peer, verb)
        text = f"{ours:.2f} s; {CONTESTANTS[peer][0]} {theirs:.2f} s"
        goals[f"leaves_{verb}"] = goal(ours, text)
    text = table(samples, count, options)
    measuring.publish(__file__, options, text, samples=samples, goals=goals)


if __name__ == "__main__":
    main()
