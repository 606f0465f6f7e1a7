"""One table: what it costs to save and load the same state with milepost and with its peers.

    python benchmarks/peers.py --output peers.md

See README.md beside this file for how to read it. Each measurement runs in a process of its
own, so that no contestant inherits another's memory, threads or imports; contestants take
turns in random order, so that a slow minute of the machine falls on all of them alike.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
# The value of the i-th array, of the shape given: made anew each time, so that a check after
# loading needs no second copy of everything.
Values = Callable[[int, tuple[int, ...]], Array]
Result = dict[str, Any]

# Must be set before the frameworks are imported, which only the measuring process does.
ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
}
PACKAGES = (
    *("milepost", "torch", "safetensors", "tensorflow"),
    *("keras", "orbax-checkpoint", "jax", "numpy"),
)
# Widths of a stack of dense layers, relative: tensors from a few hundred bytes to 25 MB.
RELATIVE_WIDTHS = (8, 1, 4, 1, 4, 1, 4, 1, 2, 2, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125)
PIECE = 16 << 20
WARM_UP_BYTES = 1_000_000
FLIPS = 16


def layer_widths(nbytes: int) -> list[int]:
    """Widths of dense layers whose fp32 weights and Adam state make about `nbytes` together."""
    relative = sum(a * b for a, b in pairwise(RELATIVE_WIDTHS))
    unit = math.sqrt(nbytes / 4 / 3 / relative)
    return [max(1, round(unit * width)) for width in RELATIVE_WIDTHS]


def state_shapes(widths: Sequence[int]) -> list[tuple[int, ...]]:
    """Shapes of a kernel and a bias per layer, three times: weights and both Adam moments."""
    layers: list[tuple[int, ...]] = []
    for a, b in pairwise(widths):
        layers += [(a, b), (b,)]
    return 3 * layers


class Peer(ABC):
    """A contestant. `save` and `load` are timed; the rest serves to make and check the state."""

    name: str
    title: str
    durable = False  # whether `save` returns only when a loss of power costs nothing

    @abstractmethod
    def prepare(self, widths: Sequence[int]) -> None:
        """Make the live objects, all of their memory touched."""

    @abstractmethod
    def fill(self, values: Values) -> None:
        """Give every array its value."""

    @abstractmethod
    def arrays(self) -> Iterator[Array]:
        """What the arrays hold now, in the order of `fill`."""

    @abstractmethod
    def save(self, folder: str) -> None:
        """Save to an empty folder, as the tool's documentation shows."""

    @abstractmethod
    def load(self, folder: str) -> None:
        """Load into live objects: afterwards all values are in memory of the process."""

    def forget(self) -> None:
        """Zero the live objects before loading: a load that does nothing must not pass."""
        self.fill(lambda _, shape: np.zeros(shape, np.float32))


class Raw(Peer):
    """The floor: what the disk, and a copy from the page cache, cost without any format."""

    name, title = "raw", "raw `os.write` / `readinto`"

    def prepare(self, widths: Sequence[int]) -> None:
        self.values = np.zeros(sum(map(math.prod, state_shapes(widths))), np.float32)

    def fill(self, values: Values) -> None:
        self.values[...] = values(0, self.values.shape)

    def arrays(self) -> Iterator[Array]:
        yield self.values

    def save(self, folder: str) -> None:
        view = self.values.data.cast("B")
        handle = os.open(f"{folder}/raw", os.O_CREAT | os.O_WRONLY)
        while view:
            view = view[os.write(handle, view[:PIECE]) :]
        os.close(handle)

    def load(self, folder: str) -> None:
        view = self.values.data.cast("B")
        with open(f"{folder}/raw", "rb", buffering=0) as file:
            while view:
                view = view[file.readinto(view[:PIECE]) :]


class TorchPeer(Peer):
    """A model and its Adam optimizer, in PyTorch."""

    def prepare(self, widths: Sequence[int]) -> None:
        import torch

        self.torch: Any = torch
        self.model = torch.nn.Sequential(*(torch.nn.Linear(a, b) for a, b in pairwise(widths)))
        self.optimizer = torch.optim.Adam(self.model.parameters())
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()  # the optimizer's state exists after the first step
        self.optimizer.zero_grad()

    def tensors(self) -> dict[str, Any]:
        """The live tensors, by names of ours."""
        parameters = dict(self.model.named_parameters())
        moments = {
            f"{key}.{name}": self.optimizer.state[parameter][key]
            for key in ("exp_avg", "exp_avg_sq")
            for name, parameter in parameters.items()
        }
        return {name: parameter.data for name, parameter in parameters.items()} | moments

    def fill(self, values: Values) -> None:
        for i, tensor in enumerate(self.tensors().values()):
            tensor.copy_(self.torch.from_numpy(values(i, tuple(tensor.shape))))

    def arrays(self) -> Iterator[Array]:
        for tensor in self.tensors().values():
            yield tensor.numpy()


class Milepost(TorchPeer):
    name, title, durable = "milepost", "`milepost.Checkpoint` (PyTorch)", True

    def save(self, folder: str) -> None:
        import milepost

        milepost.Checkpoint(model=self.model, optimizer=self.optimizer).save(f"{folder}/store")

    def load(self, folder: str) -> None:
        import milepost

        # Another object, as in another process: nothing remembered of the save helps.
        milepost.Checkpoint(model=self.model, optimizer=self.optimizer).restore(f"{folder}/store")


class TorchSave(TorchPeer):
    name, title = "torch", "`torch.save` / `torch.load`"

    def save(self, folder: str) -> None:
        states = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        self.torch.save(states, f"{folder}/state.pt")

    def load(self, folder: str) -> None:
        states = self.torch.load(f"{folder}/state.pt")
        self.model.load_state_dict(states["model"])
        self.optimizer.load_state_dict(states["optimizer"])


class Safetensors(TorchPeer):
    """Knows tensors only: the optimizer's go under names of ours.

    `load_file` maps the file and reads little of it: only the copy to the live tensors does.
    """

    name, title = "safetensors", "`safetensors.torch`"

    def save(self, folder: str) -> None:
        from safetensors.torch import save_file

        save_file(self.tensors(), f"{folder}/state.safetensors")

    def load(self, folder: str) -> None:
        from safetensors.torch import load_file

        loaded = load_file(f"{folder}/state.safetensors")
        for name, tensor in self.tensors().items():
            tensor.copy_(loaded[name])


class DistributedCheckpoint(TorchPeer):
    """The documented recipe, in one process without a process group. Syncs its own files."""

    name, title = "dcp", "`torch.distributed.checkpoint`"

    def prepare(self, widths: Sequence[int]) -> None:
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint import state_dict

        self.dcp: Any = dcp
        self.states: Any = state_dict
        super().prepare(widths)

    def save(self, folder: str) -> None:
        model, optimizer = self.states.get_state_dict(self.model, self.optimizer)
        self.dcp.save({"model": model, "optimizer": optimizer}, checkpoint_id=f"{folder}/dcp")

    def load(self, folder: str) -> None:
        model, optimizer = self.states.get_state_dict(self.model, self.optimizer)
        self.dcp.load({"model": model, "optimizer": optimizer}, checkpoint_id=f"{folder}/dcp")
        self.states.set_state_dict(
            self.model, self.optimizer, model_state_dict=model, optim_state_dict=optimizer
        )


class KerasPeer(Peer):
    """A compiled Keras model whose optimizer is built, on the TensorFlow backend."""

    def prepare(self, widths: Sequence[int]) -> None:
        import keras

        self.keras = keras
        layers = [keras.layers.Dense(width) for width in widths[1:]]
        self.model = keras.Sequential([keras.Input((widths[0],)), *layers])
        self.model.compile(optimizer="adam", loss="mse")
        self.model.optimizer.build(self.model.trainable_variables)

    def variables(self) -> list[Any]:
        both = [*self.model.variables, *self.model.optimizer.variables]
        return [variable for variable in both if len(variable.shape)]  # no counters

    def fill(self, values: Values) -> None:
        for i, variable in enumerate(self.variables()):
            variable.assign(values(i, tuple(variable.shape)))

    def arrays(self) -> Iterator[Array]:
        for variable in self.variables():
            yield np.asarray(variable)


class TensorFlowCheckpoint(KerasPeer):
    name, title = "tensorflow", "`tf.train.Checkpoint` (Keras)"

    def save(self, folder: str) -> None:
        import tensorflow as tf

        checkpoint = tf.train.Checkpoint(model=self.model, optimizer=self.model.optimizer)
        checkpoint.save(f"{folder}/checkpoint")

    def load(self, folder: str) -> None:
        import tensorflow as tf

        checkpoint = tf.train.Checkpoint(model=self.model, optimizer=self.model.optimizer)
        status = checkpoint.restore(tf.train.latest_checkpoint(folder))
        status.assert_existing_objects_matched()


class WholeKerasModel(KerasPeer):
    """Loading builds another model, so the one that was saved goes away before."""

    def forget(self) -> None:
        self.model = None


class KerasSave(WholeKerasModel):
    name, title = "keras", "`model.save('.keras')` / `load_model`"

    def save(self, folder: str) -> None:
        self.model.save(f"{folder}/model.keras")

    def load(self, folder: str) -> None:
        self.model = self.keras.saving.load_model(f"{folder}/model.keras")


class MilepostModel(WholeKerasModel):
    name, title, durable = "milepost-keras", "`milepost.save_model` / `load_model` (Keras)", True

    def save(self, folder: str) -> None:
        import milepost

        milepost.save_model(self.model, f"{folder}/model.safetensors")

    def load(self, folder: str) -> None:
        import milepost

        self.model = milepost.load_model(f"{folder}/model.safetensors")


class Numpy(Peer):
    name, title = "numpy", "`numpy.savez` / `numpy.load`"

    def prepare(self, widths: Sequence[int]) -> None:
        self.state = {str(i): np.zeros(s, np.float32) for i, s in enumerate(state_shapes(widths))}

    def fill(self, values: Values) -> None:
        for i, array in enumerate(self.state.values()):
            array[...] = values(i, array.shape)

    def arrays(self) -> Iterator[Array]:
        yield from self.state.values()

    def forget(self) -> None:
        self.state = {}

    def save(self, folder: str) -> None:
        np.savez(f"{folder}/state.npz", **self.state)  # type: ignore[arg-type]

    def load(self, folder: str) -> None:
        with np.load(f"{folder}/state.npz") as file:
            self.state = {name: file[name] for name in file.files}


class Orbax(Peer):
    """A tree of JAX arrays on the CPU; waits until the save, which runs aside, is finished."""

    name, title = "orbax", "Orbax `StandardCheckpointer` (JAX)"

    def prepare(self, widths: Sequence[int]) -> None:
        import jax
        import orbax.checkpoint as ocp

        self.jax: Any = jax
        self.checkpointer = ocp.StandardCheckpointer()
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        self.like = {
            str(i): self.jax.ShapeDtypeStruct(shape, np.float32, sharding=here)
            for i, shape in enumerate(state_shapes(widths))
        }

    def fill(self, values: Values) -> None:
        made = {name: values(int(name), like.shape) for name, like in self.like.items()}
        self.state = self.jax.block_until_ready(self.jax.tree.map(self.jax.numpy.array, made))

    def arrays(self) -> Iterator[Array]:
        for name in self.like:
            yield np.asarray(self.state[name])

    def forget(self) -> None:
        self.state = {}

    def save(self, folder: str) -> None:
        self.checkpointer.save(f"{folder}/orbax", self.state)
        self.checkpointer.wait_until_finished()

    def load(self, folder: str) -> None:
        self.state = self.checkpointer.restore(f"{folder}/orbax", self.like)
        self.jax.block_until_ready(self.state)


_CLASSES: list[type[Peer]] = [
    Milepost,
    TorchSave,
    Safetensors,
    DistributedCheckpoint,
    MilepostModel,
    KerasSave,
    TensorFlowCheckpoint,
    Orbax,
    Numpy,
    Raw,
]
PEERS = {peer.name: peer for peer in _CLASSES}


def measure(name: str, folder: str, nbytes: int, seed: int) -> Result:
    """All that is measured of one contestant in one round. Runs in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        small, large = os.path.join(own, "small"), os.path.join(own, "large")
        peer = PEERS[name]()
        cycle(peer, small, WARM_UP_BYTES, seed)  # imports, threads, first-time code
        result = cycle(PEERS[name](), large, nbytes, seed)
        return result | {"noticed": flips_noticed(peer, small, seed)}


def cycle(peer: Peer, folder: str, nbytes: int, seed: int) -> Result:
    """Save, sync and load once, and check that what was loaded is what was saved."""
    os.mkdir(folder)
    peer.prepare(layer_widths(nbytes))
    peer.fill(fresh_values(seed))
    gc.collect()
    os.sync()  # what others have left to write is not ours to wait for
    began = time.perf_counter()
    peer.save(folder)
    saved = time.perf_counter()
    if not peer.durable:
        sync_all(folder)
    synced = time.perf_counter()
    peer.forget()
    gc.collect()
    size = sum(map(read_through, files_below(folder)))  # and so the page cache is warm
    loading = time.perf_counter()
    peer.load(folder)
    loaded = time.perf_counter()
    if not holds(peer, seed):
        raise SystemExit(f"{peer.title}: what was loaded is not what was saved")
    durable = saved - began if peer.durable else synced - began
    return {"save": saved - began, "durable": durable, "load": loaded - loading, "size": size}


def fresh_values(seed: int) -> Values:
    """Normally distributed, as weights are: nothing that compresses or deduplicates well."""
    return lambda i, shape: np.random.default_rng([seed, i]).standard_normal(shape, np.float32)


def holds(peer: Peer, seed: int) -> bool:
    """Whether the live arrays are what `fill` gave them."""
    value = fresh_values(seed)
    same = [np.array_equal(array, value(i, array.shape)) for i, array in enumerate(peer.arrays())]
    return bool(same) and all(same)


def flips_noticed(peer: Peer, folder: str, seed: int) -> int:
    """Of `FLIPS` single bits flipped in the middle of the data, how many a load refuses."""
    path = max(files_below(folder), key=os.path.getsize)
    size = os.path.getsize(path)
    noticed = 0
    for position in random.Random(seed).sample(range(size // 4, size * 3 // 4), FLIPS):
        flip_bit(path, position)
        peer.forget()
        try:
            peer.load(folder)
        except KeyboardInterrupt:
            raise
        except BaseException:  # of which torch's CheckpointException is one
            noticed += 1
        flip_bit(path, position)
    return noticed


def flip_bit(path: str, position: int) -> None:
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x10]))


def files_below(folder: str) -> list[str]:
    return [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]


def read_through(path: str) -> int:
    """Read a file to its end; returns its size."""
    size = 0
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            size += len(piece)
    return size


def sync_all(folder: str) -> None:
    """What a user has to add to be safe from a loss of power: sync every file and folder."""
    for path in files_below(folder) + [at for at, _, _ in os.walk(folder)]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def run_rounds(folder: str, nbytes: int, rounds: int, seed: int) -> dict[str, list[Result]]:
    """Measure every contestant in every round, in an order that differs from round to round."""
    chance = random.Random(seed)
    results: dict[str, list[Result]] = {name: [] for name in PEERS}
    for number in range(rounds):
        order = chance.sample(list(PEERS), len(PEERS))
        print(f"round {number + 1} of {rounds}: {', '.join(order)}", file=sys.stderr)
        for name in order:
            command = [sys.executable, __file__, "--one", name, "--folder", folder]
            command += ["--megabytes", str(nbytes / 1e6), "--seed", str(seed + number)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(f"{name} failed:\n{done.stdout}{done.stderr}")
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
    return results


def report(results: dict[str, list[Result]], nbytes: int, rounds: int, seed: int) -> str:
    """The table, and what a reader needs to know to repeat it."""
    shapes = state_shapes(layer_widths(nbytes))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    lines = [
        f"{sum(map(math.prod, shapes)) * 4 / 1e6:.0f} MB of state in {len(shapes)} fp32 arrays "
        f"(weights and both moments of Adam); median of {rounds} rounds (lowest-highest), "
        f"then the ratio to the first row; seed {seed}.",
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {versions}.",
        "",
        "| | save | save, durable | load | on disk | flipped bits noticed |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, measured in results.items():
        times = [cell(results, name, key) for key in ("save", "durable", "load")]
        if PEERS[name].durable:
            times[1] = "the same: durable by itself"
        noticed = sum(result["noticed"] for result in measured)
        size = f"{statistics.median(result['size'] for result in measured) / 1e6:.1f} MB"
        cells = [PEERS[name].title, *times, size, f"{noticed} of {FLIPS * len(measured)}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(results: dict[str, list[Result]], name: str, key: str) -> str:
    seconds = [result[key] for result in results[name]]
    middle = statistics.median(seconds)
    ratio = middle / statistics.median(result[key] for result in results[Milepost.name])
    return f"{middle:.2f} s ({min(seconds):.2f}-{max(seconds):.2f}), {ratio:.2f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=400, help="size of the state")
    parser.add_argument("--seed", type=int, default=0, help="of the order, and of the values")
    parser.add_argument("--folder", default=".", help="on the disk to measure; left as it was")
    parser.add_argument("--output", help="a file to write the table to, too")
    parser.add_argument("--one", choices=PEERS, help="measure one contestant once, print JSON")
    options = parser.parse_args()
    nbytes, folder = round(options.megabytes * 1e6), os.path.abspath(options.folder)
    if options.one:
        os.environ.update(ENVIRONMENT)
        print(json.dumps(measure(options.one, folder, nbytes, options.seed)))
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix=".peers-") as own:
        results = run_rounds(own, nbytes, options.rounds, options.seed)
    table = report(results, nbytes, options.rounds, options.seed)
    print(table)
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            file.write(table + "\n")


if __name__ == "__main__":
    main()
