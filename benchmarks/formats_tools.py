"""The tools of `formats.py`: readers, each as its documentation shows, and scanners."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

LARGE = 1 << 20  # elements: an array above is only sliced


def numbers(value: Any) -> Iterator[float]:
    """The sums of all arrays in a nested value: it has to be read for them."""
    if isinstance(value, float):  # a sum already
        yield value
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from numbers(item)
    elif hasattr(value, "shape") and hasattr(value, "dtype"):
        if int(np.prod(value.shape, dtype=float)) > LARGE:
            value = value[:1]
        if hasattr(value, "detach"):
            value = value.detach().numpy()
        array = np.asarray(value)
        if array.dtype != object and array.dtype.kind not in "SU":
            yield float(array.astype(np.float64).sum())


@dataclass(frozen=True, slots=True)
class Reader:
    """A way to read a file: what is imported before, and the call, which returns nested arrays."""

    title: str
    module: str
    read: Callable[[Any, str], Any]


def _milepost(tool: Any, path: str) -> Any:
    with tool.open(path) as snapshot:
        return list(numbers([snapshot[name] for name in snapshot]))


def _safetensors(tool: Any, path: str) -> Any:
    return tool.load_file(path)


def _torch(tool: Any, path: str) -> Any:
    value = tool.load(path, weights_only=True, map_location="cpu")
    return _of_module(value)


def _torch_unsafe(tool: Any, path: str) -> Any:
    return _of_module(tool.load(path, weights_only=False, map_location="cpu"))


def _of_module(value: Any) -> Any:
    return dict(value.state_dict()) if hasattr(value, "state_dict") else value


def _torch_jit(tool: Any, path: str) -> Any:
    return dict(tool.load(path).state_dict())


def _torch_export(tool: Any, path: str) -> Any:
    return dict(tool.load(path).state_dict)


def _torch_distributed(tool: Any, path: str) -> Any:
    reader = tool.FileSystemReader(path)
    torch = importlib.import_module("torch")
    items = reader.read_metadata().state_dict_metadata
    state = {name: torch.empty(item.size) for name, item in items.items()}
    tool.load(state, checkpoint_id=path)
    return state


def _numpy(tool: Any, path: str, *, allow_pickle: bool = False) -> Any:
    value = tool.load(path, allow_pickle=allow_pickle)
    return {name: value[name] for name in value} if hasattr(value, "files") else value


def _numpy_unsafe(tool: Any, path: str) -> Any:
    return _numpy(tool, path, allow_pickle=True)


def _keras(tool: Any, path: str, *, safe_mode: bool = True) -> Any:
    if path.endswith(".weights.h5"):
        model = tool.Sequential([tool.Input((3,)), tool.layers.Dense(4, name="dense")])
        model.load_weights(path)
    else:
        model = tool.saving.load_model(path, safe_mode=safe_mode)
    return [np.asarray(variable) for variable in model.variables]


def _keras_unsafe(tool: Any, path: str) -> Any:
    return _keras(tool, path, safe_mode=False)


def _tensorflow(tool: Any, path: str) -> Any:
    reader = tool.train.load_checkpoint(path)
    return [reader.get_tensor(name) for name in reader.get_variable_to_shape_map()]


def _saved_model(tool: Any, path: str) -> Any:
    loaded = tool.saved_model.load(path)
    return [value.numpy() for value in vars(loaded).values() if hasattr(value, "numpy")]


def _orbax(tool: Any, path: str) -> Any:
    with tool.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path)


def _h5py(tool: Any, path: str) -> Any:
    found: list[Any] = []
    with tool.File(path) as file:
        for name in file:  # `visititems` does not follow links
            found += [file[name]] if hasattr(file[name], "dtype") else []
        found = [np.asarray(item) for item in found]
        file.visititems(lambda _, item: found.append(item[()]) if hasattr(item, "dtype") else None)
    return found


def _onnx(tool: Any, path: str) -> Any:
    folder = path.rpartition("/")[0]
    tensors = tool.load(path).graph.initializer
    return [tool.numpy_helper.to_array(tensor, folder) for tensor in tensors]


def _gguf(tool: Any, path: str) -> Any:
    return [np.asarray(tensor.data) for tensor in tool.GGUFReader(path).tensors]


def _flax(tool: Any, path: str) -> Any:
    with open(path, "rb") as file:
        return tool.msgpack_restore(file.read())


def _equinox(tool: Any, path: str) -> Any:
    like = {"kernel": np.zeros((3, 4), np.float32), "bias": np.zeros(4, np.float32)}
    return tool.tree_deserialise_leaves(path, like)


def _joblib(tool: Any, path: str) -> Any:
    return tool.load(path)


def _pickle(_tool: Any, path: str) -> Any:
    with open(path, "rb") as file:
        return pickle.load(file)


MILEPOST = Reader("milepost", "milepost", _milepost)
READERS = [
    MILEPOST,
    Reader("safetensors", "safetensors.numpy", _safetensors),
    Reader("`torch.load`", "torch", _torch),
    Reader("`torch.load(weights_only=False)`", "torch", _torch_unsafe),
    Reader("`torch.jit.load`", "torch.jit", _torch_jit),
    Reader("`torch.export.load`", "torch.export", _torch_export),
    Reader("torch DCP", "torch.distributed.checkpoint", _torch_distributed),
    Reader("NumPy", "numpy", _numpy),
    Reader("NumPy `allow_pickle`", "numpy", _numpy_unsafe),
    Reader("Keras", "keras", _keras),
    Reader("Keras `safe_mode=False`", "keras", _keras_unsafe),
    Reader("`tf.train.load_checkpoint`", "tensorflow", _tensorflow),
    Reader("`tf.saved_model.load`", "tensorflow", _saved_model),
    Reader("Orbax", "orbax.checkpoint", _orbax),
    Reader("h5py", "h5py", _h5py),
    Reader("onnx", "onnx", _onnx),
    Reader("gguf", "gguf", _gguf),
    Reader("Flax", "flax.serialization", _flax),
    Reader("Equinox", "equinox", _equinox),
    Reader("joblib", "joblib", _joblib),
    Reader("`pickle.load`", "pickle", _pickle),
]

_FICKLING = """
import sys, zipfile, fickling
from fickling.analysis import Severity
path = sys.argv[1]
scan = fickling.scan_zip_archive if zipfile.is_zipfile(path) else fickling.scan_file
found = scan(path, graceful=True)
results = list(found.values()) if isinstance(found, dict) else [found]
unsafe = any(r.severity > Severity.SUSPICIOUS for r in results)
unsure = not results or any(r.errors or r.severity > Severity.LIKELY_SAFE for r in results)
sys.exit(1 if unsafe else 2 if unsure else 0)
"""


@dataclass(frozen=True, slots=True)
class Scanner:
    """A scanner: its command before the path, and how to tell what it said.

    Anything that is neither flagged nor called clean is "cannot tell", which is no "clean".
    """

    title: str
    command: tuple[str, ...]
    flagged: Callable[[int, str], bool]
    clean: Callable[[int, str], bool]


def _status(wanted: int) -> Callable[[int, str], bool]:
    return lambda status, _: status == wanted


def _picklescan_flags(_: int, text: str) -> bool:
    return re.search(r"Infected files: [1-9]", text) is not None


def _picklescan_clean(status: int, text: str) -> bool:
    """It ends with 0 as well where it looked into nothing, and says so."""
    return status == 0 and re.search(r"Scanned files: [1-9]", text) is not None


def scanners(python: str | None) -> list[Scanner]:
    """milepost's, and those of the environment that a Python interpreter belongs to."""
    command = (sys.executable, "-m", "milepost", "scan")
    found = [Scanner("`milepost scan`", command, _milepost_flags, _status(0))]
    if python is not None:
        folder, flags, clean = os.path.dirname(python), _status(1), _status(0)
        pickles = (f"{folder}/picklescan", "-p")
        found.append(Scanner("picklescan", pickles, _picklescan_flags, _picklescan_clean))
        found.append(Scanner("modelscan", (f"{folder}/modelscan", "scan", "-p"), flags, clean))
        found.append(Scanner("fickling", (python, "-c", _FICKLING), flags, clean))
    return found


def _milepost_flags(status: int, text: str) -> bool:
    return status == 6 and re.search(r": (dangerous|suspicious) \(", text) is not None
