"""One table: a saved model is overwritten, and the saving process killed. What is left?

    python benchmarks/crash.py --json build/crash.json

Every contestant saves a version (the old one), then another to the same place (the new one),
and is sent SIGKILL at a random moment of the second save. Then a process of its own loads
what is there, as the tool's documentation shows, and compares every value:

    old, new    one of the versions, whole
    mixed       it loads without an error, and is neither: wrong numbers that nothing tells of
    lost        it does not load

The moments are drawn evenly from the time that an undisturbed save takes here, and a kill
counts if it came before the save returned. A share of kills lost is so the share of a save
during which the model is in danger: not how often that happens in a training.

What this cannot show: SIGKILL ends a process, not the machine. All that was handed to the
operating system stays and is written in the end, in order. After a loss of power it need not
be: a tool that never syncs looks as safe here as one that does. It draws moments, too, and a
short window of danger can be missed: a 0 says "rare", a proof is to stop at every system call.

`--rounds` is how often each is killed. Each contestant is one process that only imports; the
saving and the loading ones are forked from it, for the frameworks start no threads before their
first use. Linux only, for that.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import statistics
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import measuring
import peers

# Seeds of the values: random, because equal ones would be nothing to write for a tool that
# compresses (Orbax) or stores equal tensors once (milepost).
VERSIONS = {"old": 1, "new": 2}
OUTCOMES = ("old", "new", "mixed", "lost")
UNDISTURBED = 3
DRAWS = 10  # for one kill, before it is given up
LOAD_SECONDS = 120  # a load that takes longer is stopped by its alarm, and counts as lost
# Imported before the first fork, so that no child has to.
IMPORTS: dict[type[peers.Peer], Sequence[str]] = {
    peers.TorchPeer: ("torch.distributed.checkpoint.state_dict", "torch._dynamo"),
    peers.KerasPeer: ("tensorflow", "keras"),
    peers.Orbax: ("jax",),
}


class Write(peers.TensorFlowCheckpoint):
    """`save` numbers its files, and overwrites nothing; `write` is what does."""

    title = "`tf.train.Checkpoint.write` (Keras)"

    def save(self, folder: str) -> None:
        self.checkpoint().write(f"{folder}/checkpoint")

    def load(self, folder: str) -> None:
        status = self.checkpoint().read(f"{folder}/checkpoint")
        status.assert_existing_objects_matched()


class Force(peers.Orbax):
    title = "Orbax `StandardCheckpointer`, `force=True` (JAX)"

    def save(self, folder: str) -> None:
        self.checkpointer.save(f"{folder}/orbax", self.state, force=True)
        self.checkpointer.wait_until_finished()


_OURS = [peers.MilepostModel, peers.Milepost]
_OTHERS = [peers.TorchSave, peers.Safetensors, peers.KerasSave, peers.DistributedCheckpoint]
CONTESTANTS: dict[str, Any] = {p.name: p for p in [*_OURS, *_OTHERS, Write, Force]}


def forked(work: Callable[[int], None]) -> tuple[int, int]:
    """Run `work(pipe)` in a child. Returns its process id, and the end to read from."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        failed = True
        try:
            os.close(reading)
            work(writing)
            failed = False
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(failed)  # past every clean-up: it belongs to the parent
    os.close(writing)
    return pid, reading


def finish(pid: int, pipe: int) -> int:
    """Wait for the end of a child. Returns its exit code, or minus the signal it died of."""
    os.close(pipe)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Arena:
    """One contestant, its folder, and what is done to it again and again."""

    def __init__(self, name: str, folder: str, nbytes: int) -> None:
        self.folder = f"{folder}/{name}"
        self.widths = peers.layer_widths(nbytes)
        self.peer: Any = CONTESTANTS[name]()
        for kind, modules in IMPORTS.items():
            if isinstance(self.peer, kind):
                for module in modules:
                    importlib.import_module(module)

    def overwrite(self, kill_after: float | None) -> float | None:
        """Save the old version to an empty folder, and the new one over it, which is killed.

        Returns the seconds of a save that came to its end, None if it was killed before.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        os.mkdir(self.folder)
        pid, pipe = forked(self._save_both)
        if os.read(pipe, 1) != b"(":
            raise SystemExit(f"{self.peer.title}: cannot save the old version")
        began = time.perf_counter()
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(pid, signal.SIGKILL)
        ended = os.read(pipe, 1) == b")"
        seconds = time.perf_counter() - began
        if finish(pid, pipe) not in (0, -signal.SIGKILL):
            raise SystemExit(f"{self.peer.title}: cannot save the new version")
        return seconds if ended else None

    def _save_both(self, pipe: int) -> None:
        self.peer.prepare(self.widths)
        self.peer.fill(VERSIONS["old"])
        self.peer.save(self.folder)
        self.peer.fill(VERSIONS["new"])
        os.sync()  # the old version's data is no work of the save that is measured
        os.write(pipe, b"(")
        self.peer.save(self.folder)
        os.write(pipe, b")")

    def outcome(self) -> str:
        """What a process that knows nothing of the kill finds in the folder."""
        pid, pipe = forked(self._load)
        found = os.read(pipe, 16).decode()
        code = finish(pid, pipe)
        if not found and code >= 0:
            raise SystemExit(f"{self.peer.title}: cannot even try to load")
        if not found:
            print(f"lost: the loading process died of signal {-code}", file=sys.stderr)
        return found or "lost"

    def _load(self, pipe: int) -> None:
        signal.alarm(LOAD_SECONDS)
        self.peer.prepare(self.widths)
        self.peer.forget()
        try:
            self.peer.load(self.folder)
            found = self._compare(self.peer.arrays())
        except BaseException as error:  # of which torch's CheckpointException is one
            found = "lost"
            print(f"lost: {type(error).__name__}: {str(error)[:150]!r}", file=sys.stderr)
        os.write(pipe, found.encode())

    def _compare(self, arrays: list[peers.Array]) -> str:
        complete = len(arrays) == len(peers.state_shapes(self.widths))
        for version, seed in VERSIONS.items():
            same = (np.array_equal(a, peers.fresh(seed, i, a.shape)) for i, a in enumerate(arrays))
            if complete and all(same):
                return version
        return "mixed"


def contest(name: str, options: argparse.Namespace) -> dict[str, float]:
    """All kills of one contestant: how many had which outcome, and how long a save takes."""
    arena = Arena(name, options.folder, measuring.nbytes_of(options))
    times = []
    for _ in range(UNDISTURBED):
        seconds = arena.overwrite(None)
        if seconds is None or arena.outcome() != "new":
            raise SystemExit(f"{arena.peer.title}: an undisturbed save cannot be loaded")
        times.append(seconds)
    usual = statistics.median(times)
    chance = random.Random(options.seed)
    outcomes: Counter[str] = Counter()
    for _ in range(options.rounds):
        if any(arena.overwrite(chance.uniform(0, usual)) is None for _ in range(DRAWS)):
            outcomes[arena.outcome()] += 1
    shutil.rmtree(arena.folder)
    return {**{outcome: outcomes[outcome] for outcome in OUTCOMES}, "seconds": usual}


def table(results: dict[str, dict[str, float]], options: argparse.Namespace) -> str:
    """The results in Markdown, with what a reader needs to know to repeat them."""
    head = ["", "kills", "old", "new", "mixed", "lost", "undisturbed save"]
    rows = []
    for name, result in results.items():
        counts = [int(result[outcome]) for outcome in OUTCOMES]
        cells = [CONTESTANTS[name].title, sum(counts), *counts, f"{result['seconds']:.2f} s"]
        rows.append(cells)
    note = f"{options.megabytes:.0f} MB of state, seed {options.seed}."
    return f"{note}\n\n{measuring.markdown(head, rows)}"


def main() -> None:
    parser = measuring.parser(__doc__, rounds=30, megabytes=50)
    parser.add_argument("--one", choices=CONTESTANTS, help="this contestant only, as JSON")
    options = parser.parse_args()
    if options.one:
        warnings.simplefilter("ignore")  # the same ones after every fork
        print(json.dumps(contest(options.one, options)))
        return
    results = {}
    with measuring.scratch(options) as folder:
        for name in CONTESTANTS:
            print(name, file=sys.stderr)
            results[name] = measuring.in_process(__file__, name, options, folder)
    measuring.publish(__file__, options, table(results, options), samples=results)


if __name__ == "__main__":
    main()
