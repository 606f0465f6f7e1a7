"""The files of `formats.py`: sound ones, as each framework writes them, and hostile ones.

A hostile file's code does one thing: it makes the file named `WITNESS` beside it.
"""

from __future__ import annotations

import gzip
import importlib
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

WITNESS = "witness"  # in the folder of the hostile file
OUTSIDE = "outside"  # a folder beside the folders of the hostile files
SECRET = np.full(4, 1234.5, np.float32)
STATE = {
    "kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "bias": np.full(4, 0.5, np.float32),
}

Maker = Callable[[str], str]  # from an empty folder to the path of what it wrote there


def _module(name: str) -> Any:
    """A framework; only what makes a file of it needs it."""
    return importlib.import_module(name)


def _write(path: str, data: bytes) -> str:
    with open(path, "wb") as file:
        file.write(data)
    return path


def _tensors() -> dict[str, Any]:
    torch = _module("torch")
    return {name: torch.from_numpy(value) for name, value in STATE.items()}


def _keras_model(*others: Any) -> Any:
    keras = _module("keras")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="dense"), *others])
    model.layers[0].set_weights([STATE["kernel"], STATE["bias"]])
    return model


# -- sound


def safetensors(folder: str) -> str:
    _module("safetensors.numpy").save_file(STATE, path := f"{folder}/model.safetensors")
    return path


def torch_zip(folder: str) -> str:
    _module("torch").save(_tensors(), path := f"{folder}/model.pt")
    return path


def torch_legacy(folder: str) -> str:
    path = f"{folder}/model.pth"
    _module("torch").save(_tensors(), path, _use_new_zipfile_serialization=False)
    return path


def _linear() -> Any:
    torch = _module("torch")
    layer = torch.nn.Linear(3, 4)
    layer.weight.data = torch.from_numpy(STATE["kernel"].T.copy())
    layer.bias.data = torch.from_numpy(STATE["bias"])
    return layer


def torchscript(folder: str) -> str:
    _module("torch").jit.script(_linear()).save(path := f"{folder}/script.pt")
    return path


def torch_exported(folder: str) -> str:
    torch = _module("torch")
    program = torch.export.export(_linear(), (torch.ones(2, 3),))
    torch.export.save(program, path := f"{folder}/model.pt2")
    return path


def torch_distributed(folder: str) -> str:
    _module("torch.distributed.checkpoint").save(_tensors(), checkpoint_id=f"{folder}/dcp")
    return f"{folder}/dcp"


def npy(folder: str) -> str:
    np.save(path := f"{folder}/kernel.npy", STATE["kernel"])
    return path


def npz(folder: str) -> str:
    np.savez(path := f"{folder}/model.npz", **STATE)  # type: ignore[arg-type]
    return path


def _keras_file(name: str) -> Maker:
    def make(folder: str) -> str:
        _keras_model().save(path := f"{folder}/{name}")
        return path

    return make


def keras_weights(folder: str) -> str:
    _keras_model().save_weights(path := f"{folder}/model.weights.h5")
    return path


def tensorflow_checkpoint(folder: str) -> str:
    tf = _module("tensorflow")
    variables = {name: tf.Variable(value) for name, value in STATE.items()}
    return str(tf.train.Checkpoint(**variables).write(f"{folder}/model.ckpt"))


def saved_model(folder: str) -> str:
    tf = _module("tensorflow")
    module = tf.Module()
    module.kernel, module.bias = tf.Variable(STATE["kernel"]), tf.Variable(STATE["bias"])
    tf.saved_model.save(module, path := f"{folder}/saved")
    return path


def onnx(folder: str) -> str:
    tool = _module("onnx")
    tool.save(onnx_model(STATE), path := f"{folder}/model.onnx")
    return path


def onnx_model(state: dict[str, Any]) -> Any:
    tool = _module("onnx")
    tensors = [tool.numpy_helper.from_array(value, name) for name, value in state.items()]
    return tool.helper.make_model(tool.helper.make_graph([], "graph", [], [], tensors))


def gguf(folder: str) -> str:
    writer = _module("gguf").GGUFWriter(path := f"{folder}/model.gguf", "llama")
    for name, value in STATE.items():
        writer.add_tensor(name, value)
    for step in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{step}_to_file")()
    writer.close()
    return path


def orbax(folder: str) -> str:
    with _module("orbax.checkpoint").StandardCheckpointer() as tool:
        tool.save(path := f"{folder}/orbax", STATE)
    return path


def flax(folder: str) -> str:
    data = _module("flax.serialization").to_bytes(STATE)
    return _write(f"{folder}/model.msgpack", data)


def equinox(folder: str) -> str:
    _module("equinox").tree_serialise_leaves(path := f"{folder}/model.eqx", STATE)
    return path


SOUND: dict[str, Maker] = {
    "safetensors": safetensors,
    "PyTorch, zip": torch_zip,
    "PyTorch, legacy": torch_legacy,
    "TorchScript": torchscript,
    "PyTorch, `torch.export`": torch_exported,
    "PyTorch, distributed": torch_distributed,
    "`.npy`": npy,
    "`.npz`": npz,
    "Keras `.keras`": _keras_file("model.keras"),
    "Keras `.h5`": _keras_file("model.h5"),
    "Keras `.weights.h5`": keras_weights,
    "TensorFlow checkpoint": tensorflow_checkpoint,
    "SavedModel": saved_model,
    "ONNX": onnx,
    "GGUF": gguf,
    "Orbax": orbax,
    "Flax msgpack": flax,
    "Equinox": equinox,
}


# -- hostile


class _Call:
    """Unpickled, it runs a command that makes the witness."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.folder}/{WITNESS}'",)


def _hostile_state(folder: str) -> dict[str, Any]:
    return {**STATE, "more": _Call(folder)}


def bare_pickle(folder: str) -> str:
    return _write(f"{folder}/model.pkl", pickle.dumps(_hostile_state(folder)))


def gzip_pickle(folder: str) -> str:
    data = gzip.compress(pickle.dumps(_hostile_state(folder)))
    return _write(f"{folder}/model.pkl.gz", data)


def broken_pickle(folder: str) -> str:
    """Broken behind the call, as those found in January 2025 ("nullifAI") were."""
    call = pickle.dumps(_Call(folder))
    return _write(f"{folder}/model.pkl", call.removesuffix(b".") + b"\xff\xff\xff")


def object_array(folder: str) -> str:
    array = np.array([_Call(folder)], dtype=object)
    np.save(path := f"{folder}/model.npy", array, allow_pickle=True)
    return path


def _torch_bytes(state: object, *, new: bool = True) -> bytes:
    buffer = io.BytesIO()
    _module("torch").save(state, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


def hostile_torch_zip(folder: str) -> str:
    state = {**_tensors(), "more": _Call(folder)}
    return _write(f"{folder}/model.pt", _torch_bytes(state))


def hostile_torch_legacy(folder: str) -> str:
    state = {**_tensors(), "more": _Call(folder)}
    return _write(f"{folder}/model.pth", _torch_bytes(state, new=False))


def nested_zip(folder: str) -> str:
    with zipfile.ZipFile(path := f"{folder}/model.zip", "w") as archive:
        archive.writestr("inner/model.pt", _torch_bytes({"more": _Call(folder)}))
    return path


def disagreeing_names(folder: str) -> str:
    """A torch file whose local header calls `data.pkl` otherwise than its directory does."""
    data = bytearray(_torch_bytes({**_tensors(), "more": _Call(folder)}))
    at = data.index(b"archive/data.pkl")
    data[at + 8 : at + 16] = b"data.txt"
    return _write(f"{folder}/model.pt", bytes(data))


def twice_named(folder: str) -> str:
    """A torch file with two members `data.pkl`: the first is harmless, the second is not."""
    sound, hostile = _torch_bytes(_tensors()), _torch_bytes({"more": _Call(folder)})
    with zipfile.ZipFile(io.BytesIO(hostile)) as archive:
        evil = archive.read("archive/data.pkl")
    held = io.BytesIO(sound)
    with zipfile.ZipFile(held, "a") as archive:
        archive.writestr("another/data.pkl", evil)
    data = held.getvalue().replace(b"another/data.pkl", b"archive/data.pkl")
    return _write(f"{folder}/model.pt", data)


def keras_lambda(folder: str) -> str:
    keras = _module("keras")
    target = f"{folder}/{WITNESS}"
    # Built-in names only: a loaded function has not the globals of this module, and one that
    # fails there would look as if Keras had not run it.
    layer = keras.layers.Lambda(lambda x: (open(target, "w").write(""), x)[1])  # noqa: SIM115
    _keras_model(layer).save(path := f"{folder}/model.keras")
    return path


def hdf5_external(folder: str) -> str:
    """One link to another file, and one array whose bytes are another file's."""
    h5py, outside = _module("h5py"), os.path.join(os.path.dirname(folder), OUTSIDE)
    os.makedirs(outside, exist_ok=True)
    with h5py.File(f"{outside}/secret.h5", "w") as file:
        file["secret"] = SECRET
    _write(f"{outside}/secret.bin", SECRET.tobytes())
    with h5py.File(path := f"{folder}/model.h5", "w") as file:
        file["link"] = h5py.ExternalLink(f"{outside}/secret.h5", "/secret")
        storage = [(f"{outside}/secret.bin", 0, SECRET.nbytes)]
        file.create_dataset("stored", SECRET.shape, SECRET.dtype, external=storage)
    return path


def onnx_outside(folder: str) -> str:
    """A tensor whose bytes lie in a file outside of the model's folder."""
    tool, outside = _module("onnx"), os.path.join(os.path.dirname(folder), OUTSIDE)
    os.makedirs(outside, exist_ok=True)
    _write(f"{outside}/secret.bin", SECRET.tobytes())
    model = onnx_model({"secret": SECRET})
    tensor = model.graph.initializer[0]
    tool.external_data_helper.set_external_data(tensor, f"../{OUTSIDE}/secret.bin")
    tensor.ClearField("raw_data")
    return _write(f"{folder}/model.onnx", model.SerializeToString())


def safetensors_of(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def overlapping(folder: str) -> str:
    one = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header = {"a": one, "b": {**one, "data_offsets": [8, 24]}}
    return _write(f"{folder}/model.safetensors", safetensors_of(header, bytes(24)))


def stride_zero(folder: str) -> str:
    """10^10 elements that are all the same four bytes."""
    torch = _module("torch")
    return _write(f"{folder}/model.pt", _torch_bytes({"a": torch.ones(1).expand(10**10)}))


def gguf_counts(folder: str) -> str:
    """A header that claims 2^60 tensors."""
    return _write(f"{folder}/model.gguf", b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0) + bytes(64))


HOSTILE: dict[str, Maker] = {
    "pickle with a call": bare_pickle,
    "the same, gzip": gzip_pickle,
    "the same, broken behind the call": broken_pickle,
    "call in an `.npy` of objects": object_array,
    "call in a PyTorch zip": hostile_torch_zip,
    "call in a legacy PyTorch file": hostile_torch_legacy,
    "the PyTorch zip in a zip": nested_zip,
    "PyTorch zip, two names for one member": disagreeing_names,
    "PyTorch zip, two members of one name": twice_named,
    "PyTorch, 10¹⁰ elements of 4 bytes": stride_zero,
    "Keras `Lambda`": keras_lambda,
    "HDF5 that names other files": hdf5_external,
    "ONNX that names a file outside": onnx_outside,
    "safetensors that overlap": overlapping,
    "GGUF of 2⁶⁰ tensors": gguf_counts,
}
