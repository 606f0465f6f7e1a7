"""One table: how much slower a transformer trains that is saved after every step.

    python benchmarks/training.py --json build/training.json

A byte-level transformer of 11 million parameters learns the Python standard library's text by
Adam, on the CPU. Blocks of steps with and without saves take turns in random order. A save is
asked for after every step, or as soon as the one before is on the disk, if that takes longer;
the table tells how many there were for each step. Before a block's clock starts there is one
save already, so that every step of the block has one behind it.

How much it costs depends on how much a step computes for each byte of state: `--tokens` is that.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import measuring
from measuring import Samples, goal, span

os.environ.update(measuring.ENVIRONMENT)

import torch

from milepost import Checkpoint
from milepost.bench import limits
from milepost.storage.local import LocalStorage
from milepost.store import Store, prune

LENGTH = 128  # bytes of a sample
NONE, BACKGROUND, DCP, SAVE = "none", "background", "dcp", "torch"
TITLES = {
    NONE: "no saves",
    BACKGROUND: "`milepost`, in the background",
    DCP: "`torch.distributed.checkpoint.async_save`",
    SAVE: "`torch.save`, then `fsync`",
}


class Transformer(torch.nn.Module):
    """As GPT: blocks with attention to what came before, over bytes."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.bytes = torch.nn.Embedding(256, width)
        self.places = torch.nn.Embedding(LENGTH, width)
        self.blocks = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(
                width, width // 64, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.head = torch.nn.Linear(width, 256)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        hidden = self.bytes(text) + self.places(torch.arange(text.shape[1]))
        mask = torch.nn.Transformer.generate_square_subsequent_mask(text.shape[1])
        for block in self.blocks:
            hidden = block(hidden, src_mask=mask, is_causal=True)
        found: torch.Tensor = self.head(hidden)
        return found


class Training:
    """A model, its optimizer, its text, and the tools that save both."""

    def __init__(self, folder: str, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        torch.manual_seed(options.seed)
        # 12 matrices a layer; what they take with Adam's moments is the size of the state.
        width = max(64, round((options.megabytes * 1e6 / 12 / 12 / 6) ** 0.5 / 64) * 64)
        self.model = Transformer(width, 6)
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-4)
        library = sorted(Path(os.__file__).parent.glob("*.py"))
        text = b"".join(path.read_bytes() for path in library)
        self.text = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self.checkpoint = Checkpoint(model=self.model, optimizer=self.optimizer)
        self.pending: Any = None
        self.saves = 0
        self.dcp: Any = importlib.import_module("torch.distributed.checkpoint")

    def step(self) -> float:
        samples = self.options.tokens // LENGTH
        starts = torch.randint(len(self.text) - LENGTH - 1, (samples,))
        rows = torch.stack([self.text[i : i + LENGTH + 1] for i in starts.tolist()]).long()
        found = self.model(rows[:, :-1])
        loss = torch.nn.functional.cross_entropy(found.flatten(0, 1), rows[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()

    def save(self, how: str) -> None:
        if self.pending is not None and not self.pending.done:
            return
        states = {"model": self.model.state_dict(), "optim": self.optimizer.state_dict()}
        self.saves += 1
        if how == BACKGROUND:
            self.pending = self.checkpoint.save(f"{self.folder}/store", background=True)
        elif how == DCP:
            path = f"{self.folder}/dcp-{self.saves % 2}"
            self.pending = _Future(self.dcp.async_save(states, checkpoint_id=path, no_dist=True))
        elif how == SAVE:
            torch.save(states, f"{self.folder}/state.pt")
            measuring.sync_all(f"{self.folder}/state.pt")

    def settle(self) -> None:
        """Nothing of a block is left to do in the next one."""
        if self.pending is not None:
            self.pending.wait()
            self.pending = None
        if os.path.exists(f"{self.folder}/store"):
            prune(Store.open(LocalStorage(f"{self.folder}/store")), lambda store: [])
        limits.settle()

    def block(self, how: str) -> tuple[float, float]:
        """Seconds a step, and saves a step."""
        self.settle()
        if how != NONE:
            self.save(how)
        self.saves = 0
        began = time.perf_counter()
        for _ in range(self.options.steps):
            self.step()
            if how != NONE:
                self.save(how)
        seconds = time.perf_counter() - began
        return seconds / self.options.steps, self.saves / self.options.steps


class _Future:
    """A future, with the words of milepost's background save."""

    def __init__(self, future: Any) -> None:
        self._future = future

    @property
    def done(self) -> bool:
        return bool(self._future.done())

    def wait(self) -> None:
        self._future.result()


def main() -> None:
    parser = measuring.parser(__doc__, rounds=6, megabytes=128)
    parser.add_argument("--steps", type=int, default=6, help="of a block")
    parser.add_argument("--tokens", type=int, default=2048, help="of a step")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of DCP, that it overwrites, as it is meant to
    samples: Samples = {how: {"step": [], "saves": []} for how in TITLES}
    chance = random.Random(options.seed)
    with measuring.scratch(options) as folder:
        training = Training(folder, options)
        for number in range(options.rounds + 1):
            for how in chance.sample(list(TITLES), len(TITLES)):
                step, saves = training.block(how)
                if number:
                    samples[how]["step"].append(step)
                    samples[how]["saves"].append(saves)
        training.settle()
        size = sum(p.nbytes for p in training.model.parameters()) * 3
    plain = statistics.median(samples[NONE]["step"])
    rows, slower = [], {}
    for how, found in samples.items():
        slower[how] = 100 * (statistics.median(found["step"]) / plain - 1)
        each = f"{statistics.mean(found['saves']):.2f}" if how != NONE else ""
        percent = f"{slower[how]:.1f} %" if how != NONE else ""
        rows.append([TITLES[how], span(found["step"]), percent, each])
    note = (
        f"{size / 12e6:.1f} million parameters, {size / 1e6:.0f} MB of state, {options.tokens} "
        f"tokens a step. Milliseconds a step, median of {options.rounds} blocks of "
        f"{options.steps} steps (lowest-highest)."
    )
    head = ["saved by", "a step", "slower by", "saves a step"]
    text = f"{note}\n\n{measuring.markdown(head, rows)}"
    saves = statistics.mean(samples[BACKGROUND]["saves"])
    measured = f"{slower[BACKGROUND]:.1f} %, {saves:.2f} saves a step"
    goals = {"training": goal(slower[BACKGROUND], measured)}
    measuring.publish(__file__, options, text, samples=samples, goals=goals)


if __name__ == "__main__":
    main()
