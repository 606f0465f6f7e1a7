"""One table: what compaction makes of training runs, how fast, and what a restore costs then.

    python benchmarks/runs.py --out build/runs
    python benchmarks/compaction.py --runs build/runs --json build/bench/full/compaction.json

Each run's checkpoints are saved into a store and compacted. Then steps of the store are restored
in place, in random order, beside the same steps of a copy that was not compacted: from the page
cache, and cold. Every restored value is compared with what was saved. Without `--runs`, a run is
made up: random weights that drift, which shows that it works, and nothing about real ones.
"""

from __future__ import annotations

import gc
import os
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import measuring
import milepost
from milepost.bench.limits import drop_cache, files_below
from milepost.dtypes import Array

RUNS = ("dense", "bf16", "finetune", "frozen", "lora", "embedding")
GIGA = 1e9


def checkpoints(folder: Path) -> Iterator[dict[str, Array]]:
    """The states of a run, in order."""
    for path in sorted(folder.glob("*.safetensors")):
        opened = milepost.open(path)
        assert isinstance(opened, milepost.Snapshot)
        with opened as snapshot:
            yield {name: np.asarray(snapshot[name]) for name in snapshot}


def made_up(nbytes: int) -> Iterator[dict[str, Array]]:
    """Weights that drift for ten steps."""
    draw = np.random.default_rng(0)
    weights = draw.standard_normal(nbytes // 4).astype(np.float32)
    for _ in range(10):
        weights = weights + draw.standard_normal(len(weights)).astype(np.float32) * np.float32(1e-4)
        yield {"w/weights": weights}


class Contest:
    """A run as a store, plain and compacted."""

    def __init__(self, states: Iterator[dict[str, Array]], folder: str) -> None:
        self.plain, self.compacted = f"{folder}/plain", f"{folder}/compacted"
        first = next(states)
        self.live = {name: array.copy() for name, array in first.items()}
        self.checkpoint = milepost.Checkpoint(state=self.live)
        self._save()
        for state in states:
            for name, array in state.items():
                self.live[name][...] = array
            self._save()
        self.one = sum(array.nbytes for array in self.live.values())
        measuring.use_free_memory(self.one)
        began = time.perf_counter()
        self.report = milepost.compact(self.compacted)
        self.seconds = time.perf_counter() - began

    def _save(self) -> None:
        for path in (self.plain, self.compacted):
            self.checkpoint.save(path)

    @property
    def ratio(self) -> float:
        return self.report.after / self.report.before

    def restore(self, path: str, step: int, *, cold: bool) -> float:
        for name in files_below(path):
            if cold:
                drop_cache(name)
            else:
                np.fromfile(name, np.uint8)
        for array in self.live.values():
            array.view(np.uint8)[...] = 0
        gc.collect()
        began = time.perf_counter()
        self.checkpoint.restore(path, step)
        return time.perf_counter() - began

    def bytes_of(self, step: int) -> int:
        """What a step's own packs take."""
        found = Path(self.compacted, "data").glob(f"{step:020d}-*")
        return sum(path.stat().st_size for path in found)


def measure_restores(contest: Contest, rounds: int, seed: int) -> dict[str, list[float]]:
    """Seconds of restores, of the same steps from both stores, in random order."""
    chance = random.Random(seed)
    steps = milepost.open(contest.plain).steps[:-1]  # type: ignore[union-attr]
    columns = [(path, cold) for path in (contest.plain, contest.compacted) for cold in (0, 1)]
    seconds: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        step = chance.choice(steps)
        for path, cold in chance.sample(columns, len(columns)):
            found = contest.restore(path, step, cold=bool(cold))
            key = f"{os.path.basename(path)}, {'cold' if cold else 'warm'}"
            if number:
                seconds.setdefault(key, []).append(found)
            elif not cold:
                _check(contest, step)
    return seconds


def _check(contest: Contest, step: int) -> None:
    with milepost.open(contest.plain)[step] as expected:  # type: ignore[index, union-attr]
        for name, array in contest.live.items():
            if np.asarray(expected[f"state/{name}"]).tobytes() != array.tobytes():
                raise SystemExit(f"{name} of step {step} is not what was saved")


def goals(found: dict[str, tuple[Contest, dict[str, float]]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, run in (("compact_dense", "dense"), ("compact_bf16", "bf16")):
        if run in found:
            ratio = found[run][0].ratio
            result[key] = measuring.goal(ratio, f"{ratio:.3f}, the whole newest one included")
    if "dense" in found:
        contest, middle = found["dense"]
        speed = contest.report.before / contest.seconds / GIGA
        result["compact_speed"] = measuring.goal(speed, f"{speed:.2f} GB/s")
        speed = contest.one / middle["compacted, warm"] / GIGA
        result["compact_restore"] = measuring.goal(speed, f"{speed:.2f} GB/s, warm")
        for key, kind in (("compact_ratio", "cold"), ("compact_ratio_warm", "warm")):
            ratio = middle[f"compacted, {kind}"] / middle[f"plain, {kind}"]
            result[key] = measuring.goal(ratio, f"{ratio:.2f}x")
    if "embedding" in found:
        contest, _ = found["embedding"]
        kept = [contest.bytes_of(step) / contest.one for step in contest.report.steps]
        share = 100 * statistics.median(kept)
        result["embedding"] = measuring.goal(
            share, f"{share:.1f} % (median; {100 * max(kept):.0f} % the base of them)"
        )
    return result


def main() -> None:
    parser = measuring.parser(__doc__, rounds=7, megabytes=40)
    parser.add_argument("--runs", type=Path, default=Path("build/runs"), help="what runs.py wrote")
    options = parser.parse_args()
    runs = [run for run in RUNS if (options.runs / run).is_dir()] or ["made up"]
    found, samples, rows = {}, {}, []
    for run in runs:
        with measuring.scratch(options) as folder:
            is_real = run in RUNS
            states = (
                checkpoints(options.runs / run)
                if is_real
                else made_up(measuring.nbytes_of(options))
            )
            contest = Contest(states, folder)
            seconds = measure_restores(contest, options.rounds, options.seed)
            found[run] = contest, {key: statistics.median(v) for key, v in seconds.items()}
            samples[run] = seconds
            rows.append(_row(run, contest, seconds))
            goal_values = goals(found)
    head = ["run", "before, MB", "after / before", "GB/s in", *_COLUMNS]
    note = (
        f"Restores in milliseconds, median of {options.rounds} rounds (lowest-highest); "
        f"seed {options.seed}. `before` is of all checkpoints together, of which the newest stays "
        "as it is."
    )
    text = f"{note}\n\n{measuring.markdown(head, rows)}"
    measuring.publish(__file__, options, text, samples=samples, goals=goal_values)


_COLUMNS = ("plain, warm", "compacted, warm", "plain, cold", "compacted, cold")


def _row(run: str, contest: Contest, seconds: dict[str, list[float]]) -> list[object]:
    return [
        run,
        f"{contest.report.before / 1e6:.0f}",
        f"{contest.ratio:.3f}",
        f"{contest.report.before / contest.seconds / GIGA:.2f}",
        *(measuring.span(seconds[column]) for column in _COLUMNS),
    ]


if __name__ == "__main__":
    main()
