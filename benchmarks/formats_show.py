"""How long a look into a file of 2 GB takes: `milepost show`, and what its own tool offers."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from formats_files import onnx_model

COUNT, SHAPE = 200, (2500, 1000)  # arrays of 10 MB in fp32
NBYTES = 4 * SHAPE[0] * SHAPE[1]


def _module(name: str) -> Any:
    return importlib.import_module(name)


def _names() -> list[str]:
    return [f"layer{i}.weight" for i in range(COUNT)]


def _torch_state() -> dict[str, Any]:
    torch = _module("torch")
    return {name: torch.zeros(SHAPE) for name in _names()}


def _safetensors(folder: str) -> str:
    """Sparse: nobody reads the arrays' bytes."""
    header = {
        name: {"dtype": "F32", "shape": SHAPE, "data_offsets": [i * NBYTES, (i + 1) * NBYTES]}
        for i, name in enumerate(_names())
    }
    text = json.dumps(header).encode()
    with open(path := f"{folder}/model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + COUNT * NBYTES)
    return path


def _torch(folder: str) -> str:
    _module("torch").save(_torch_state(), path := f"{folder}/model.pt")
    return path


def _torch_legacy(folder: str) -> str:
    path = f"{folder}/model.pth"
    _module("torch").save(_torch_state(), path, _use_new_zipfile_serialization=False)
    return path


def _gguf(folder: str) -> str:
    """Sparse, too."""
    writer = _module("gguf").GGUFWriter(path := f"{folder}/model.gguf", "llama")
    for name in _names():
        writer.add_tensor_info(name, SHAPE, np.dtype(np.float32), NBYTES)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    padded = -(-os.path.getsize(path) // 32) * 32
    os.truncate(path, padded + COUNT * NBYTES)
    return path


def _npz(folder: str) -> str:
    arrays = {name: np.zeros(SHAPE, np.float32) for name in _names()}
    np.savez(path := f"{folder}/model.npz", **arrays)  # type: ignore[arg-type]
    return path


def _onnx(folder: str) -> str:
    state = {name: np.zeros(SHAPE, np.float32) for name in _names()}
    _module("onnx").save(onnx_model(state), path := f"{folder}/model.onnx")
    return path


def _keras(name: str) -> Callable[[str], str]:
    def make(folder: str) -> str:
        keras = _module("keras")
        layers = [keras.layers.Dense(5000, kernel_initializer="zeros") for _ in range(20)]
        keras.Sequential([keras.Input((5000,)), *layers]).save(path := f"{folder}/{name}")
        return path

    return make


def _tensorflow(folder: str) -> str:
    tf = _module("tensorflow")
    variables = {name.replace(".", "_"): tf.Variable(tf.zeros(SHAPE)) for name in _names()}
    return str(tf.train.Checkpoint(**variables).write(f"{folder}/model.ckpt"))


def _orbax(folder: str) -> str:
    """Of random numbers, since it compresses."""
    chance = np.random.default_rng(0)
    state = {name: chance.standard_normal(SHAPE, np.float32) for name in _names()}
    with _module("orbax.checkpoint").StandardCheckpointer() as tool:
        tool.save(path := f"{folder}/orbax", state)
    return path


# What makes the file, and a program that lists names, shapes and dtypes as the tool itself can.
_TORCH = "import torch; print({k: (v.shape, v.dtype) for k, v in torch.load(PATH, weights_only=True"
FILES: dict[str, tuple[Callable[[str], str], str, str]] = {
    "safetensors": (
        _safetensors,
        "`safe_open`, `get_slice`",
        "from safetensors import safe_open; f = safe_open(PATH, 'np'); "
        "print({k: f.get_slice(k).get_shape() for k in f.keys()})",
    ),
    "PyTorch, zip": (_torch, "`torch.load(mmap=True)`", _TORCH + ", mmap=True).items()})"),
    "PyTorch, legacy": (_torch_legacy, "`torch.load`", _TORCH + ").items()})"),
    "GGUF": (
        _gguf,
        "`GGUFReader`",
        "import gguf; print({t.name: t.shape for t in gguf.GGUFReader(PATH).tensors})",
    ),
    "`.npz`": (
        _npz,
        "`numpy.load`",
        "import numpy; f = numpy.load(PATH); print({k: f[k].shape for k in f})",
    ),
    "ONNX": (
        _onnx,
        "`onnx.load`",
        "import onnx; print({t.name: list(t.dims) for t in onnx.load(PATH).graph.initializer})",
    ),
    "Keras `.h5`": (
        _keras("model.h5"),
        "h5py `visititems`",
        "import h5py; h5py.File(PATH).visititems(lambda n, d: print(n, getattr(d, 'shape', '')))",
    ),
    "Keras `.keras`": (
        _keras("model.keras"),
        "`keras.saving.load_model`",
        "import keras; print([(w.path, w.shape) for w in keras.saving.load_model(PATH).weights])",
    ),
    "TensorFlow checkpoint": (
        _tensorflow,
        "`tf.train.list_variables`",
        "import tensorflow as tf; print(tf.train.list_variables(PATH))",
    ),
    "Orbax": (
        _orbax,
        "`StandardCheckpointer.metadata`",
        "import orbax.checkpoint as o; print(o.StandardCheckpointer().metadata(PATH))",
    ),
}


def _cost(command: list[str]) -> tuple[float, float, float]:
    """Of a process that has to succeed: seconds, those on a processor, megabytes of memory."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{command}\n{errors.read().decode()[-2000:]}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3


def measure(title: str, folder: str, rounds: int) -> str:
    """The row of a format: medians of both, taken in turns."""
    _, tool, program = FILES[title]
    with tempfile.TemporaryDirectory(dir=folder, prefix="formats-") as own:
        # In a process of its own, whose memory is gone afterwards.
        making = f"import formats_show; print(formats_show.FILES[{title!r}][0]({own!r}))"
        environment = os.environ | {"PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}
        done = subprocess.run(
            [sys.executable, "-c", making], stdout=subprocess.PIPE, env=environment, check=True
        )
        path = done.stdout.decode().splitlines()[-1]
        ours = [sys.executable, "-m", "milepost", "show", path]
        theirs = [sys.executable, "-c", program.replace("PATH", repr(path))]
        pairs = [(_cost(ours), _cost(theirs)) for _ in range(rounds)]
    cells = [title]
    for name, runs in (("", [a for a, _ in pairs]), (tool, [b for _, b in pairs])):
        seconds, busy, megabytes = (statistics.median(run[i] for run in runs) for i in range(3))
        cells += [name] * bool(name)
        cells += [f"{seconds:.2f} s", f"{busy:.2f} s", f"{megabytes:.0f} MB"]
    return f"| {' | '.join(cells)} |"


def table(folder: str, rounds: int) -> str:
    """How long each takes. The interpreter's start is in all figures."""
    if shutil.disk_usage(folder).free < 6e9:
        raise SystemExit(f"{folder} has no 6 GB free")
    lines = [
        "| 2 GB of | `milepost show` | processor | memory "
        "| the tool's own look | takes | processor | memory |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for title in FILES:
        print(title, file=sys.stderr)
        lines.append(measure(title, folder, rounds))
    return "\n".join(lines)
