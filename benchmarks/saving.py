"""One table: what a save costs a training loop, beside the limits of the machine and the peers.

    python benchmarks/saving.py --json build/saving.json

A process makes one state (fp32 weights and Adam's moments, as `speed.py`) and saves it again
and again; contestants take turns in random order, and between their turns every number of the
state changes, or 1 % of its arrays, or none. The first round is not counted: it takes imports
and the first touch of memory. One process does so with PyTorch's tensors, another with JAX's
arrays, a third with TensorFlow's variables. What each contestant has written is removed before
the next one's turn.

Two times are taken: until the loop may go on, and until the save is durable, which for tools
that do not sync is after `fsync` of all that they wrote. TensorFlow's own asynchronous save lets
the next step wait for it: so of its variables, saved in the background by whomever, the first time
has also what the step after the save, which changes every number, takes longer than the one before.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import measuring
import peers
from measuring import Samples, fastest, goal, median, span
from milepost import Checkpoint
from milepost.bench import limits
from milepost.storage.local import LocalStorage
from milepost.store import Store, prune

CHANGED, UNCHANGED, PART = "everything changed", "nothing changed", "1 % of the bytes changed"
Times = tuple[float, float]  # seconds until the loop may go on, and until the save is durable


def timed(action: Callable[[], Any], finish: Callable[[Any], object] | None = None) -> Times:
    """Both times, from a moment at which the disk has nothing left to write."""
    limits.settle()
    began = time.perf_counter()
    result = action()
    returned = time.perf_counter()
    if finish is not None:
        finish(result)
    return returned - began, time.perf_counter() - began


class Contest:
    """One state, and everything that saves it."""

    rows: ClassVar[dict[str, tuple[str, str]]] = {}  # method -> title, what has changed

    def __init__(self, folder: Path, nbytes: int) -> None:
        self.folder, self.store = folder, folder / "store"
        self.shapes = peers.state_shapes(peers.layer_widths(nbytes))
        self.arrays = [peers.fresh(0, i, shape) for i, shape in enumerate(self.shapes)]
        self.nbytes = sum(array.nbytes for array in self.arrays)
        self.checkpoint = Checkpoint(state=None)

    @property
    def path(self) -> str:
        return str(self.folder / "other")

    def change(self) -> None:
        """Change every number of the state."""
        raise NotImplementedError

    def saved(self, save: Callable[[str], Any], finish: Callable[[Any], object]) -> Times:
        """The times of a peer's save to a new path."""
        self.change()
        return timed(lambda: save(self.path), finish)

    def synced(self, save: Callable[[str], Any], finish: Callable[[Any], object] = bool) -> Times:
        """The same, durable by `fsync`."""

        def finished(result: Any) -> None:
            finish(result)
            measuring.sync_all(self.path)

        return self.saved(save, finished)

    def milepost(self) -> Times:
        self.change()
        return timed(lambda: self.checkpoint.save(self.store))

    def milepost_background(self) -> Times:
        self.change()
        return timed(
            lambda: self.checkpoint.save(self.store, background=True), lambda save: save.wait()
        )

    def clean(self) -> None:
        """Remove what a turn has left."""
        if os.path.isdir(self.path):
            shutil.rmtree(self.path)
        elif os.path.exists(self.path):
            os.unlink(self.path)
        if self.store.exists():
            prune(Store.open(LocalStorage(self.store)), lambda store: [])


class Torch(Contest):
    rows: ClassVar = {
        "limit_direct": ("limit: write past the page cache, two threads, `fsync`", ""),
        "limit_buffered": ("limit: write through the page cache, `fsync`", ""),
        "milepost": ("`milepost`", CHANGED),
        "safetensors": ("safetensors", CHANGED),
        "torch_save": ("`torch.save`", CHANGED),
        "dcp": ("`torch.distributed.checkpoint`", CHANGED),
        "torchsnapshot": ("`torchsnapshot`", CHANGED),
        "milepost_part": ("`milepost`", PART),
        "milepost_unchanged": ("`milepost`", UNCHANGED),
        "limit_copy": ("limit: copy of the state, two threads", ""),
        "milepost_background": ("`milepost`, in the background", CHANGED),
        "dcp_async": ("`torch.distributed.checkpoint.async_save`", CHANGED),
        "torchsnapshot_async": ("`torchsnapshot`, `async_take`", CHANGED),
    }

    def __init__(self, folder: Path, nbytes: int) -> None:
        super().__init__(folder, nbytes)
        torch = importlib.import_module("torch")
        self.tool: Any = torch
        self.state = {str(i): torch.from_numpy(array) for i, array in enumerate(self.arrays)}
        self.copies = [array.copy() for array in self.arrays]
        self.buffers = limits.used_buffers()
        self.checkpoint = Checkpoint(state=self.state)
        self.part: list[str] = []
        size = 0
        for name in sorted(self.state, key=lambda name: self.state[name].nbytes):
            if size < self.nbytes // 100:
                self.part.append(name)
                size += self.state[name].nbytes

    def change(self) -> None:
        for tensor in self.state.values():
            tensor.add_(1)

    def limit_direct(self) -> Times:
        return (limits.write(self.path, self.nbytes, self.buffers, direct=True),) * 2

    def limit_buffered(self) -> Times:
        return (limits.write(self.path, self.nbytes, self.buffers, direct=False),) * 2

    def limit_copy(self) -> Times:
        return (limits.copy(self.arrays, self.copies),) * 2

    def milepost_unchanged(self) -> Times:
        self.checkpoint.save(self.store)  # others have changed it meanwhile
        return timed(lambda: self.checkpoint.save(self.store))

    def milepost_part(self) -> Times:
        self.checkpoint.save(self.store)
        for name in self.part:
            self.state[name].add_(1)
        return timed(lambda: self.checkpoint.save(self.store))

    def safetensors(self) -> Times:
        tool = importlib.import_module("safetensors.torch")
        return self.synced(lambda path: tool.save_file(self.state, path))

    def torch_save(self) -> Times:
        return self.synced(lambda path: self.tool.save(self.state, path))

    def dcp(self) -> Times:
        """It syncs its data itself, if not the names."""
        tool = importlib.import_module("torch.distributed.checkpoint")
        save = tool.save
        return self.saved(lambda path: save(self.state, checkpoint_id=path, no_dist=True), bool)

    def dcp_async(self) -> Times:
        tool = importlib.import_module("torch.distributed.checkpoint")
        save = tool.async_save
        return self.saved(
            lambda path: save(self.state, checkpoint_id=path, no_dist=True),
            lambda future: future.result(),
        )

    def torchsnapshot(self) -> Times:
        tool = importlib.import_module("torchsnapshot")
        state = {"state": tool.StateDict(**self.state)}
        return self.synced(lambda path: tool.Snapshot.take(path, state))

    def torchsnapshot_async(self) -> Times:
        tool = importlib.import_module("torchsnapshot")
        state = {"state": tool.StateDict(**self.state)}
        return self.synced(
            lambda path: tool.Snapshot.async_take(path, state), lambda pending: pending.wait()
        )


class Jax(Contest):
    rows: ClassVar = {
        "milepost": ("`milepost` (JAX)", CHANGED),
        "orbax": ("Orbax `Checkpointer` (JAX)", CHANGED),
        "milepost_background": ("`milepost`, in the background (JAX)", CHANGED),
        "orbax_async": ("Orbax `StandardCheckpointer`, in the background (JAX)", CHANGED),
    }

    def __init__(self, folder: Path, nbytes: int) -> None:
        super().__init__(folder, nbytes)
        jax = importlib.import_module("jax")
        self.orbax_module: Any = importlib.import_module("orbax.checkpoint")
        self.jax: Any = jax
        self.more = jax.jit(lambda state: jax.tree.map(lambda array: array + 1, state))
        self.set({str(i): jax.numpy.array(array) for i, array in enumerate(self.arrays)})
        self.arrays = []
        tool = self.orbax_module
        self.waiting = tool.Checkpointer(tool.StandardCheckpointHandler())
        self.background = tool.StandardCheckpointer()

    def set(self, state: Any) -> None:
        self.state = self.checkpoint.state = self.jax.block_until_ready(state)

    def change(self) -> None:
        self.set(self.more(self.state))

    def orbax(self) -> Times:
        args = self.orbax_module.args.StandardSave
        return self.synced(lambda path: self.waiting.save(path, args=args(self.state)))

    def orbax_async(self) -> Times:
        return self.synced(
            lambda path: self.background.save(path, self.state),
            lambda _: self.background.wait_until_finished(),
        )


class TensorFlow(Contest):
    rows: ClassVar = {
        "milepost": ("`milepost` (TensorFlow)", CHANGED),
        "tf_train": ("`tf.train.Checkpoint`", CHANGED),
        "milepost_background": ("`milepost`, in the background (TensorFlow)", CHANGED),
        "tf_train_async": ("`tf.train.Checkpoint`, asynchronous", CHANGED),
    }

    def __init__(self, folder: Path, nbytes: int) -> None:
        super().__init__(folder, nbytes)
        tensorflow: Any = importlib.import_module("tensorflow")
        state = {str(i): tensorflow.Variable(array) for i, array in enumerate(self.arrays)}
        self.arrays = []
        self.state, self.checkpoint = state, Checkpoint(state=state)
        self.other = tensorflow.train.Checkpoint(**state)
        options = tensorflow.train.CheckpointOptions
        self.in_background = options(experimental_enable_async_checkpoint=True)

    def change(self) -> None:
        for variable in self.state.values():
            variable.assign_add(variable)

    def with_a_step(self, save: Callable[[], Any], finish: Callable[[Any], object]) -> Times:
        """The times of a save in the background, and of what it costs the step after it."""
        began = time.perf_counter()
        self.change()
        step = time.perf_counter() - began

        def action() -> Any:
            result = save()
            self.change()
            return result

        blocked, durable = timed(action, finish)
        return blocked - step, durable - step

    def milepost_background(self) -> Times:
        save = self.checkpoint.save
        return self.with_a_step(lambda: save(self.store, background=True), lambda save: save.wait())

    def tf_train(self) -> Times:
        self.change()
        return timed(
            lambda: self.other.write(f"{self.path}/checkpoint"),
            lambda _: measuring.sync_all(self.path),
        )

    def tf_train_async(self) -> Times:
        def finish(_: Any) -> None:
            self.other.sync()
            measuring.sync_all(self.path)

        return self.with_a_step(
            lambda: self.other.write(f"{self.path}/checkpoint", self.in_background), finish
        )


CONTESTS: dict[str, type[Contest]] = {"torch": Torch, "jax": Jax, "tensorflow": TensorFlow}


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    contest = CONTESTS[name](Path(options.folder), measuring.nbytes_of(options))
    chance = random.Random(options.seed)
    absent = tuple(peers.missing())
    rows = [row for row in contest.rows if not row.startswith(absent)]
    samples: Samples = {row: {"blocked": [], "durable": []} for row in rows}
    for number in range(options.rounds + 1):
        for row in chance.sample(rows, len(rows)):
            blocked, durable = getattr(contest, row)()
            contest.clean()
            if number:
                samples[row]["blocked"].append(blocked)
                samples[row]["durable"].append(durable)
    return {"nbytes": contest.nbytes, "samples": samples}


def title(row: str) -> tuple[str, str]:
    contest, _, method = row.partition(".")
    return CONTESTS[contest].rows[method]


def table(nbytes: int, samples: Samples, options: argparse.Namespace) -> str:
    ours = median(samples, "torch.milepost", "durable")
    head = ["", "between saves", "the loop waits, ms", "durable after, ms", "ratio"]
    rows = []
    for row, found in samples.items():
        is_limit = row.startswith("torch.limit")
        waits = "" if is_limit else span(found["blocked"], digits=1)
        ratio = f"{median(samples, row, 'durable') / ours:.2f}"
        rows.append([*title(row), waits, span(found["durable"]), ratio])
    note = (
        f"{nbytes / 1e6:.0f} MB of state. Median of {options.rounds} rounds (lowest-highest); the "
        f"ratio is of the second time, to a durable save by milepost; seed {options.seed}."
    )
    return f"{note}\n\n{measuring.markdown(head, rows)}"


def goals(samples: Samples) -> dict[str, Any]:
    """What of goals.py these samples tell."""

    def of(row: str, column: str = "durable") -> float:
        return median(samples, row, column) * 1e3

    full = [f"torch.{name}" for name in ("safetensors", "torch_save", "dcp", "torchsnapshot")]
    peer = fastest(samples, full, "durable")
    theirs = f"{title(peer)[0]}, durable, {of(peer):.0f} ms"
    ours, limit, dcp = of("torch.milepost"), of("torch.limit_direct"), of("torch.dcp")
    blocked, copy = of("torch.milepost_background", "blocked"), of("torch.limit_copy")
    jax = of("jax.milepost_background", "blocked")
    found = {
        "save_limit": goal(limit / ours, f"{limit / ours:.2f}: {ours:.0f} ms of {limit:.0f} ms"),
        "save_peer": goal(of(peer) / ours, f"{of(peer) / ours:.2f}x: {ours:.0f} ms; {theirs}"),
        "save_dcp": goal(dcp / ours, f"{dcp / ours:.2f}x: {ours:.0f} ms; {dcp:.0f} ms"),
        "blocked": goal(blocked / copy, f"{blocked / copy:.2f}x: {blocked:.0f} ms; {copy:.0f} ms"),
        "blocked_jax": goal(jax, f"{jax:.1f} ms"),
    }
    for key in ("unchanged", "part"):
        seconds = of(f"torch.milepost_{key}")
        ratio = of(peer) / seconds
        found[key] = goal(ratio, f"{ratio:.1f}x: {seconds:.0f} ms; {theirs}")
    return found


def main() -> None:
    parser = measuring.parser(__doc__, rounds=9, megabytes=1000)
    parser.add_argument("--one", choices=CONTESTS, help="one state only, as JSON")
    options = parser.parse_args()
    if options.one:
        os.environ.update(measuring.ENVIRONMENT)
        print(json.dumps(run(options.one, options)))
        return
    samples: Samples = {}
    for name in CONTESTS:
        with measuring.scratch(options) as folder:
            found = measuring.in_process(__file__, name, options, folder)
        samples |= {f"{name}.{row}": columns for row, columns in found["samples"].items()}
    text = table(found["nbytes"], samples, options)
    measuring.publish(__file__, options, text, samples=samples, goals=goals(samples))


if __name__ == "__main__":
    main()
