"""The tools that are compared, each behind the same verbs, and the state that all of them save."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

# Widths of a stack of dense layers, relative: tensors from a few hundred bytes to 25 MB.
WIDTHS = (8, 1, 4, 1, 4, 1, 4, 1, 2, 2, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125)


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
    saves = True  # or reads what another tool saves
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


class MilepostBackground(Milepost):
    """Its save returns once the state is copied, and is waited for here."""

    name, title = "milepost-background", "`milepost.Checkpoint`, in the background"

    def save(self, folder: str) -> None:
        checkpoint = self.tool.Checkpoint(model=self.model, optimizer=self.optimizer)
        checkpoint.save(f"{folder}/store", background=True).wait()


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


class FastSafetensors(Safetensors):
    """Reads with several threads, into memory of its own; without a GPU it has no other gain."""

    name, title = "fastsafetensors", "`fastsafetensors`"
    saves = False

    def load(self, folder: str) -> None:
        fast = importlib.import_module("fastsafetensors")
        files = [f"{folder}/state.safetensors"]
        with fast.fastsafe_open(filenames=files, nogds=True, device="cpu") as file:
            for name, tensor in self.tensors().items():
                tensor.copy_(file.get_tensor(name))


class RunAI(Safetensors):
    """Streams tensors in the order in which they were read, from several threads."""

    name, title = "runai", "Run:ai model streamer"
    saves = False

    def load(self, folder: str) -> None:
        runai = importlib.import_module("runai_model_streamer")
        tensors = self.tensors()
        with runai.SafetensorsStreamer() as streamer:
            streamer.stream_file(f"{folder}/state.safetensors")
            for name, tensor in streamer.get_tensors():
                tensors[name].copy_(tensor)


class TorchSnapshot(TorchPeer):
    name, title, module = "torchsnapshot", "`torchsnapshot`", "torchsnapshot"

    def save(self, folder: str) -> None:
        states = {"model": self.model, "optimizer": self.optimizer}
        self.tool.Snapshot.take(f"{folder}/snapshot", states)

    def load(self, folder: str) -> None:
        states = {"model": self.model, "optimizer": self.optimizer}
        self.tool.Snapshot(f"{folder}/snapshot").restore(states)


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


_OURS = [Milepost, MilepostBackground, MilepostModel]
_TORCH = [TorchSave, Safetensors, FastSafetensors, RunAI, DistributedCheckpoint, TorchSnapshot]
_OTHERS = [KerasSave, TensorFlowCheckpoint, Orbax, Numpy]
PEERS: dict[str, Any] = {peer.name: peer for peer in [*_OURS, *_TORCH, *_OTHERS]}
OURS = [peer.name for peer in _OURS]
# What does not install everywhere, and the package that it takes.
OPTIONAL = {
    "fastsafetensors": "fastsafetensors",
    "runai": "runai_model_streamer",
    "torchsnapshot": "torchsnapshot",
}


def missing() -> list[str]:
    """The contestants whose package is not installed."""
    return [name for name, module in OPTIONAL.items() if not importlib.util.find_spec(module)]
