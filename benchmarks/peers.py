"""One table: what it costs to save and load the same state with milepost and with its peers.

    python benchmarks/peers.py --output peers.md

See README.md beside this file for how to read it. Each measurement runs in a process of its
own, so that no contestant inherits another's memory, threads or imports; contestants take
turns in random order, so that a slow minute of the machine falls on all of them alike.
"""

from __future__ import annotations

import argparse
import gc
import importlib
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
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

# Must be set before the frameworks are imported, which only the measuring process does.
ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
}
PACKAGES = "milepost torch safetensors tensorflow tensorflow-cpu keras orbax-checkpoint jax numpy"
# Widths of a stack of dense layers, relative: tensors from a few hundred bytes to 25 MB.
WIDTHS = (8, 1, 4, 1, 4, 1, 4, 1, 2, 2, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125)
PIECE = 16 << 20
WARM_UP_BYTES = 1_000_000
FLIPS = 16


def layer_widths(nbytes: int) -> list[int]:
    """Widths of dense layers whose fp32 weights and Adam state make about `nbytes` together."""
    unit = math.sqrt(nbytes / 4 / 3 / sum(a * b for a, b in pairwise(WIDTHS)))
    return [max(1, round(unit * width)) for width in WIDTHS]


def state_shapes(widths: Sequence[int]) -> list[tuple[int, ...]]:
    """A kernel and a bias per layer, three times: weights and both moments of Adam."""
    layers: list[tuple[int, ...]] = []
    for a, b in pairwise(widths):
        layers += [(a, b), (b,)]
    return 3 * layers


def fresh(seed: int | None, i: int, shape: Sequence[int]) -> Array:
    """What the i-th array holds: normally distributed, as weights are; zeros without a seed.

    Can be made again for the check after loading, which so needs no copy of everything.
    """
    if seed is None:
        return np.zeros(shape, np.float32)
    return np.random.default_rng([seed, i]).standard_normal(tuple(shape), np.float32)


class Peer:
    """A contestant. These are its verbs, of which `save` and `load` are timed:

    prepare(widths)  make the live objects
    fill(seed)       give every array its value, by which all memory is touched
    save(folder)     save to an empty folder, as the tool's documentation shows
    forget()         zero the live objects: a load that does nothing must not pass
    load(folder)     load into live objects: afterwards all values are in the process's memory
    arrays()         what the arrays hold now, in the order of `fill`
    """

    name: str
    title: str
    module: str  # imported as `self.tool`
    durable = False  # whether `save` returns only when a loss of power costs nothing

    def __init__(self) -> None:
        self.tool: Any = importlib.import_module(self.module)

    def fill(self, seed: int | None) -> None:
        raise NotImplementedError

    def forget(self) -> None:
        self.fill(None)


class TorchPeer(Peer):
    """A model and its Adam optimizer, in PyTorch."""

    def prepare(self, widths: Sequence[int]) -> None:
        import torch

        self.model = torch.nn.Sequential(*(torch.nn.Linear(a, b) for a, b in pairwise(widths)))
        self.optimizer = torch.optim.Adam(self.model.parameters())
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()  # the optimizer's state exists after the first step
        self.optimizer.zero_grad()

    def tensors(self) -> dict[str, Any]:
        named = dict(self.model.named_parameters())
        found = {name: parameter.data for name, parameter in named.items()}
        for key in ("exp_avg", "exp_avg_sq"):
            found |= {f"{key}.{name}": self.optimizer.state[p][key] for name, p in named.items()}
        return found

    def fill(self, seed: int | None) -> None:
        for i, array in enumerate(self.arrays()):
            array[...] = fresh(seed, i, array.shape)

    def arrays(self) -> list[Array]:
        return [tensor.numpy() for tensor in self.tensors().values()]


class Milepost(TorchPeer):
    name, title = "milepost", "`milepost.Checkpoint` (PyTorch)"
    module, durable = "milepost", True

    def save(self, folder: str) -> None:
        checkpoint = self.tool.Checkpoint(model=self.model, optimizer=self.optimizer)
        checkpoint.save(f"{folder}/store")

    def load(self, folder: str) -> None:
        # Another object, as in another process: nothing remembered of the save helps.
        checkpoint = self.tool.Checkpoint(model=self.model, optimizer=self.optimizer)
        checkpoint.restore(f"{folder}/store")


class TorchSave(TorchPeer):
    name, title, module = "torch", "`torch.save` / `torch.load`", "torch"

    def save(self, folder: str) -> None:
        states = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        self.tool.save(states, f"{folder}/state.pt")

    def load(self, folder: str) -> None:
        states = self.tool.load(f"{folder}/state.pt")
        self.model.load_state_dict(states["model"])
        self.optimizer.load_state_dict(states["optimizer"])


class Safetensors(TorchPeer):
    """Knows tensors only: the optimizer's go under names of ours."""

    name, title, module = "safetensors", "`safetensors.torch`", "safetensors.torch"

    def save(self, folder: str) -> None:
        self.tool.save_file(self.tensors(), f"{folder}/state.safetensors")

    def load(self, folder: str) -> None:
        # Maps the file, and may read little of it: the copy to the live tensors does.
        loaded = self.tool.load_file(f"{folder}/state.safetensors")
        for name, tensor in self.tensors().items():
            tensor.copy_(loaded[name])


class DistributedCheckpoint(TorchPeer):
    """The documented recipe, in one process without a process group."""

    name, title = "dcp", "`torch.distributed.checkpoint`"
    module = "torch.distributed.checkpoint"

    def save(self, folder: str) -> None:
        from torch.distributed.checkpoint.state_dict import get_state_dict

        model, optim = get_state_dict(self.model, self.optimizer)
        self.tool.save({"model": model, "optim": optim}, checkpoint_id=f"{folder}/dcp")

    def load(self, folder: str) -> None:
        from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

        model, optim = get_state_dict(self.model, self.optimizer)
        self.tool.load({"model": model, "optim": optim}, checkpoint_id=f"{folder}/dcp")
        set_state_dict(self.model, self.optimizer, model_state_dict=model, optim_state_dict=optim)


class KerasPeer(Peer):
    """A compiled Keras model whose optimizer is built, on the TensorFlow backend."""

    def prepare(self, widths: Sequence[int]) -> None:
        import keras

        layers = [keras.layers.Dense(width) for width in widths[1:]]
        self.model = keras.Sequential([keras.Input((widths[0],)), *layers])
        self.model.compile(optimizer="adam", loss="mse")
        self.model.optimizer.build(self.model.trainable_variables)

    def variables(self) -> list[Any]:
        both = [*self.model.variables, *self.model.optimizer.variables]
        return [variable for variable in both if len(variable.shape)]  # no counters

    def fill(self, seed: int | None) -> None:
        for i, variable in enumerate(self.variables()):
            variable.assign(fresh(seed, i, variable.shape))

    def arrays(self) -> list[Array]:
        return [np.asarray(variable) for variable in self.variables()]


class TensorFlowCheckpoint(KerasPeer):
    name, title, module = "tensorflow", "`tf.train.Checkpoint` (Keras)", "tensorflow"

    def checkpoint(self) -> Any:
        return self.tool.train.Checkpoint(model=self.model, optimizer=self.model.optimizer)

    def save(self, folder: str) -> None:
        self.checkpoint().save(f"{folder}/checkpoint")

    def load(self, folder: str) -> None:
        status = self.checkpoint().restore(self.tool.train.latest_checkpoint(folder))
        status.assert_existing_objects_matched()


class KerasSave(KerasPeer):
    """Loading builds another model, so the one that was saved goes away before."""

    name, title, module = "keras", "`model.save('.keras')` / `load_model`", "keras"

    def forget(self) -> None:
        self.model = None

    def save(self, folder: str) -> None:
        self.model.save(f"{folder}/model.keras")

    def load(self, folder: str) -> None:
        self.model = self.tool.saving.load_model(f"{folder}/model.keras")


class MilepostModel(KerasSave):
    name, title = "milepost-keras", "`milepost.save_model` / `load_model` (Keras)"
    module, durable = "milepost", True

    def save(self, folder: str) -> None:
        self.tool.save_model(self.model, f"{folder}/model.safetensors")

    def load(self, folder: str) -> None:
        self.model = self.tool.load_model(f"{folder}/model.safetensors")


class Orbax(Peer):
    """A tree of JAX arrays on the CPU. Saves in the background, so is waited for."""

    name, title = "orbax", "Orbax `StandardCheckpointer` (JAX)"
    module = "orbax.checkpoint"

    def prepare(self, widths: Sequence[int]) -> None:
        self.jax: Any = importlib.import_module("jax")
        self.checkpointer = self.tool.StandardCheckpointer()
        here = self.jax.sharding.SingleDeviceSharding(self.jax.devices()[0])
        shapes = enumerate(state_shapes(widths))
        self.like = {
            str(i): self.jax.ShapeDtypeStruct(s, np.float32, sharding=here) for i, s in shapes
        }

    def fill(self, seed: int | None) -> None:
        made = {i: fresh(seed, int(i), like.shape) for i, like in self.like.items()}
        self.state = self.jax.block_until_ready(self.jax.tree.map(self.jax.numpy.array, made))

    def arrays(self) -> list[Array]:
        return [np.asarray(self.state[i]) for i in self.like]

    def forget(self) -> None:
        self.state = None

    def save(self, folder: str) -> None:
        self.checkpointer.save(f"{folder}/orbax", self.state)
        self.checkpointer.wait_until_finished()

    def load(self, folder: str) -> None:
        restored = self.checkpointer.restore(f"{folder}/orbax", self.like)
        self.state = self.jax.block_until_ready(restored)


class Numpy(Peer):
    name, title, module = "numpy", "`numpy.savez` / `numpy.load`", "numpy"

    def prepare(self, widths: Sequence[int]) -> None:
        self.shapes = state_shapes(widths)

    def fill(self, seed: int | None) -> None:
        self.state = {str(i): fresh(seed, i, shape) for i, shape in enumerate(self.shapes)}

    def arrays(self) -> list[Array]:
        return list(self.state.values())

    def forget(self) -> None:
        self.state = {}

    def save(self, folder: str) -> None:
        self.tool.savez(f"{folder}/state.npz", **self.state)

    def load(self, folder: str) -> None:
        with self.tool.load(f"{folder}/state.npz") as file:
            self.state = {name: file[name] for name in file.files}


class Raw(Peer):
    """The floor: what the disk, and a copy from the page cache, cost without any format."""

    name, title, module = "raw", "floor: `os.write` / `readinto`", "os"

    def prepare(self, widths: Sequence[int]) -> None:
        self.array = np.zeros(sum(map(math.prod, state_shapes(widths))), np.float32)

    def fill(self, seed: int | None) -> None:
        self.array[...] = fresh(seed, 0, self.array.shape)

    def arrays(self) -> list[Array]:
        return [self.array]

    def save(self, folder: str) -> None:
        view = self.array.data.cast("B")
        handle = os.open(f"{folder}/raw", os.O_CREAT | os.O_WRONLY)
        while view:
            view = view[os.write(handle, view[:PIECE]) :]
        os.close(handle)

    def load(self, folder: str) -> None:
        view = self.array.data.cast("B")
        with open(f"{folder}/raw", "rb", buffering=0) as file:
            while view:
                view = view[file.readinto(view[:PIECE]) :]


_TORCH = [Milepost, TorchSave, Safetensors, DistributedCheckpoint]
_OTHERS = [MilepostModel, KerasSave, TensorFlowCheckpoint, Orbax, Numpy, Raw]
PEERS: dict[str, Any] = {peer.name: peer for peer in [*_TORCH, *_OTHERS]}


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
    results: Results = {name: [] for name in PEERS}
    for number in range(options.rounds):
        order = chance.sample(list(PEERS), len(PEERS))
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
    installed = {
        d.name.lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()
    }
    versions = [f"{name} {installed[name]}" for name in PACKAGES.split() if name in installed]
    lines = [
        f"{sum(map(math.prod, shapes)) * 4 / 1e6:.0f} MB of state in {len(shapes)} fp32 arrays. "
        f"Median of {options.rounds} rounds (lowest-highest), ratio to the first row's median; "
        f"seed {options.seed}.",
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {', '.join(versions)}.",
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
    ratio = middle / statistics.median(result[key] for result in results[Milepost.name])
    return f"{middle:.2f} s ({min(seconds):.2f}-{max(seconds):.2f}), {ratio:.2f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=400, help="size of the state")
    parser.add_argument("--seed", type=int, default=0, help="of the order and of the values")
    parser.add_argument("--folder", default=".", help="on the disk to measure; left as it was")
    parser.add_argument("--output", help="a file that the table is written to, too")
    parser.add_argument("--one", choices=PEERS, help="measure one contestant once, print JSON")
    options = parser.parse_args()
    folder = os.path.abspath(options.folder)
    if options.one:
        os.environ.update(ENVIRONMENT)
        nbytes = round(options.megabytes * 1e6)
        print(json.dumps(measure(options.one, folder, nbytes, options.seed)))
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix=".peers-") as own:
        # Large files come and go here: none of them may end up in a commit made meanwhile.
        with open(f"{own}/.gitignore", "w", encoding="utf-8") as file:
            file.write("*\n")
        results = run_rounds(own, options)
    print(table(results, options))
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            file.write(table(results, options) + "\n")


if __name__ == "__main__":
    main()
