"""The published classes of attack on Keras files, each as a file that `load_model` is given.

All are loaded in one process of their own, which watches what is imported, opened and run,
and by how much it grows.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import pytest

import keras
from milepost import save_model
from tests.model.test_model_file import rewrite

from .test_hostile import CODE, LAMBDA, compiled, dense, function, layer, node

ROOT = Path(__file__).parents[2]


class Evil:
    def __reduce__(self):
        return (open, ("/etc/passwd",))


PICKLE = {
    "class_name": "__bytes__",
    "config": {"value": base64.b64encode(pickle.dumps(Evil())).decode()},
}


def keras_layer(name, **config):
    return layer(node("keras.layers", name, config))


def called_with(function_node):
    """A functional model whose layer is called with an object that a file describes."""

    def change(body):
        config = body["structure"]["config"]
        config["module"], config["class_name"] = "keras.src.models.functional", "Functional"
        config["config"]["layers"][1]["inbound_nodes"] = [
            {"args": [function_node], "kwargs": {"fname": "x", "origin": "http://localhost/x"}}
        ]

    return change


def nested(depth):
    inner = node("keras.layers", "Dense", {"units": 2})
    for _ in range(depth):
        inner = node("keras", "Sequential", {"layers": [inner]})
    return layer(inner)


def asset(name):
    def change(body):
        body["structure"]["config"]["config"]["layers"][1] = node(
            "keras.layers", "StringLookup", {"name": "words"}
        )
        body["leaves"][f"assets/layers/words/{name}"] = body["leaves"]["layers/dense/bias"]

    return change


# CVE-number, or what it is -> how a good file's document is changed.
ATTACKS = {
    "CVE-2024-3660 lambda": keras_layer("Lambda", function=LAMBDA),
    "CVE-2024-3660 lambda of old": keras_layer("Lambda", function=[CODE, None, None]),
    "CVE-2024-3660 as activation": dense(activation=LAMBDA),
    "CVE-2025-1550 module": layer(node("evil_module", "Layer")),
    "CVE-2025-1550 function": dense(activation=function("evil_module", "run")),
    "CVE-2025-1550 type": layer({"class_name": "__typespec__", "module": "evil_module"}),
    "CVE-2025-1550 eval": dense(kernel_initializer=node("builtins", "eval")),
    "CVE-2025-1550 in compile": compiled(loss=function("evil_module", "run")),
    "CVE-2025-8747 get_file": called_with(function("keras.utils", "get_file")),
    "CVE-2025-8747 load_model": called_with(function("keras.models", "load_model")),
    "CVE-2025-8747 as a class": layer(node("keras.utils", "get_file", {"origin": "file:///x"})),
    "CVE-2025-9905 no module": layer({"class_name": "Lambda", "config": {"function": LAMBDA}}),
    "CVE-2025-9905 old lambda": layer(
        {"class_name": "Lambda", "config": {"function_type": "lambda", "function": [CODE]}}
    ),
    "CVE-2025-9906 unsafe": layer(node("keras.config", "enable_unsafe_deserialization")),
    "CVE-2025-9906 in a function": called_with(
        function("keras.config", "enable_unsafe_deserialization")
    ),
    "CVE-2025-12058 file": keras_layer("StringLookup", vocabulary="/etc/passwd"),
    "CVE-2025-12058 address": keras_layer("IntegerLookup", vocabulary="http://localhost:1/x"),
    "CVE-2025-12058 text": keras_layer("TextVectorization", vocabulary="file:///etc/passwd"),
    "CVE-2025-12060 archive": called_with({**function("keras.utils", "get_file"), "extract": True}),
    "CVE-2025-12060 asset": asset("../../escaped"),
    "CVE-2025-49655 pickle": keras_layer("TorchModuleWrapper", module=PICKLE),
    "CVE-2026-0897 dense": keras_layer("Dense", units=10**12),
    "CVE-2026-0897 embedding": keras_layer("Embedding", input_dim=10**7, output_dim=10**3),
    "CVE-2026-0897 overflow": keras_layer("Dense", units=2**62),
    "CVE-2026-0897 kernel": keras_layer("EinsumDense", equation="ab,bc->ac", output_shape=10**11),
    "CVE-2026-1462 saved model": keras_layer("TFSMLayer", filepath="/etc"),
    "CVE-2026-1669 wrapper of jax": keras_layer("JaxLayer", call_fn=LAMBDA),
    "giant: states": keras_layer("LSTM", units=10**6, stateful=True),
    "giant: metric": compiled(metrics=[node("keras.metrics", "AUC", {"num_thresholds": 10**9})]),
    "giant: repeats": keras_layer("RepeatVector", n=10**9),
    "giant: spectrum": keras_layer("MelSpectrogram", num_mel_bins=10**9, fft_length=10**9),
    "pattern: policies": layer(
        node(
            "keras.layers",
            "Dense",
            {
                "units": 2,
                "name": "a" * 60,
                "dtype": node(
                    "keras.dtype_policies",
                    "DTypePolicyMap",
                    {"default_policy": None, "policy_map": {"(a+)+b": "float32"}},
                ),
            },
        )
    ),
    "pattern: optimizer": compiled(
        optimizer=node("keras.optimizers", "Muon", {"exclude_layers": ["(.*)*x"]})
    ),
    "deep: some": nested(45),
    "deep: very": nested(200),
}


def hdf5(path: Path) -> None:
    """CVE-2025-9905, CVE-2026-0897 and CVE-2026-1669 in their own format."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(
            {"class_name": "Lambda", "config": {"function": [CODE, None, None]}}
        )
        file.create_dataset("bomb", shape=(10**12,), dtype="f4", chunks=(1024,))
        file.create_dataset("secret", (64,), "u1", external=[("/etc/passwd", 0, 64)])


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    home = tmp_path_factory.mktemp("attacks")
    folder, benign = home / "files", home / "benign"
    folder.mkdir()
    (home / "evil_module.py").write_text("open('evil', 'w').close()\nrun = Layer = print\n")
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(2, activation="relu", name="dense")]
    )
    model.compile("adam", "mse")
    save_model(model, benign)
    for name, change in ATTACKS.items():
        shutil.copy(benign, folder / name)
        rewrite(folder / name, change)
    hdf5(folder / "CVE-2026-1669 hdf5")
    with zipfile.ZipFile(folder / "CVE-2025-12060 keras archive", "w") as archive:
        archive.writestr("config.json", json.dumps(node("evil_module", "Layer")))
        archive.writestr("../escaped", "x")
    process = subprocess.run(
        [sys.executable, "-m", "tests.keras.attacks", str(folder), str(benign)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    assert sorted(p.name for p in home.iterdir()) == ["benign", "evil_module.py", "files"]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", [*ATTACKS, "CVE-2026-1669 hdf5", "CVE-2025-12060 keras archive"])
def test_an_attack_is_refused(outcome, name):
    found = outcome[name]
    assert "MilepostError" in found["error"][0], found
    assert found["new"] == [], found
    assert found["calls"] == [], found
    assert found["grown"] < 300, found
