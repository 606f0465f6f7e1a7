"""Ways past scanners, those that were published and those found here: none is clean.

Each is a file that runs code when it is opened the usual way, which is shown where it can be.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import milepost
from milepost.scanning import Severity
from tests.scanning.test_scan import tarred, zipped

CALL = b"cposix\nsystem\n(S'touch harmed'\ntR."
DTYPES = (
    b"\x80\x04\x8c\x0cnumpy.dtypes\x8c\x10__builtins__.get\x93\x8c\x04eval\x85R"
    b"\x8c\x27__import__('os').system('touch harmed')\x85R."
)
PADDED = b"\0" * 77 + b"0"

# What Python's pickle runs.
PICKLES = {
    "no header, newer operations": b"\x8c\x05posix\x8c\x06system\x93\x8c\x0ctouch harmed\x85R.",
    "protocol 0 in the header": b"\x80\x00" + CALL,
    "protocol 1 in the header": b"\x80\x01" + CALL,
    "begins like a bitmap": b"BM\0\0\0" + PADDED + CALL,
    "begins like a picture": b"GIF8....." + b"0" + CALL,
    "begins like bz2": b"BZh\0\0" + bytes(0x685A) + b"0" + CALL,
    "begins with a frame": b"\x95" + bytes(8) + CALL,
    "a long line before": b"V" + b"a" * (2 << 20) + b"\n0" + CALL,
    "memo keys in other spellings": (
        b"Vcollections\np5\n0Vposix\np+5\n0VOrderedDict\np6\n0Vsystem\np+" + b"0" * 300 + b"6\n0"
        b"g5\ng6\n\x93\x8c\x0ctouch harmed\x85R."
    ),
    "built-in functions through a module": DTYPES,
    "a mark below": b"((0" + CALL,
    "a mark that is taken away": b"N(10" + CALL,
    "text throughout, and no end": CALL[:-1] + b"\n# and a text follows, which is no pickle",
}


def run(data, folder):
    """Unpickle, and tell whether it did harm."""
    where = Path.cwd()
    os.chdir(folder)
    try:
        pickle.load(io.BytesIO(data))
    except Exception:  # whatever it raises once it is done
        pass
    finally:
        os.chdir(where)
    return (folder / "harmed").exists()


@pytest.mark.parametrize("name", PICKLES)
def test_pickles(tmp_path, name):
    data = PICKLES[name]
    assert run(data, tmp_path), "it is no weapon"
    (tmp_path / "harmed").unlink()
    for number, wrapped in enumerate((data, zipped(data), gzip.compress(data), in_torch(data))):
        path = tmp_path / f"{number}.pt"
        path.write_bytes(wrapped)
        assert not milepost.scan(path).is_clean, number
    assert not (tmp_path / "harmed").exists()


def in_torch(data):
    """A PyTorch file whose index is this pickle."""
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    result = io.BytesIO()
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(result, "w") as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith("data.pkl") else old.read(name))
    return result.getvalue()


def old_tar(data, name="pickle"):
    """A tar archive without a mark, as before 1988."""
    archive = bytearray(tarred(data))
    archive[:100] = name.encode("latin-1").ljust(100, b"\0")
    archive[257:265] = bytes(8)
    archive[148:156] = b" " * 8
    archive[148:156] = b"%06o\0 " % sum(archive[:512])
    return bytes(archive)


def sparse_tar():
    archive = bytearray(tarred(b"a text, it seems"))
    archive[156:157] = b"S"
    archive[148:156] = b" " * 8
    archive[148:156] = b"%06o\0 " % sum(archive[:512])
    return bytes(archive)


def keras_file(config):
    return zipped(json.dumps(config).encode(), "config.json")


LAMBDA = {"class_name": "Lambda", "module": "keras.layers", "config": {}}
HIDDEN = keras_file(LAMBDA)
GGUF = b"GGUF\x03\0\0\0" + bytes(16)
FILES = {
    "an old tar of texts": old_tar(CALL),
    "a tar that begins like a pickle": old_tar(CALL, "\x80\x02N."),
    "a tar that begins like a picture": old_tar(CALL, "GIF89a"),
    "a tar with holes": sparse_tar(),
    "two gzips": gzip.compress(b"Va text\n0") + gzip.compress(CALL),
    "a pickle in two gzips": gzip.compress(CALL[:7]) + gzip.compress(CALL[7:]),
    "a pickle in two bz2": bz2.compress(CALL[:7]) + bz2.compress(CALL[7:]),
    "a pickle in two xz": lzma.compress(CALL[:7]) + lzma.compress(CALL[7:]),
    "half a gzip": gzip.compress(CALL)[:-8],
    "old lzma": lzma.compress(CALL, lzma.FORMAT_ALONE),
    "a Keras file behind a picture": b"\x89PNG\r\n\x1a\n" + bytes(100) + HIDDEN,
    "a Keras file behind a text": b"hello" * 100 + HIDDEN,
    "a Keras file behind GGUF": GGUF + HIDDEN,
    "7z": b"7z\xbc\xaf\x27\x1c" + bytes(100),
    "a library in a zip": zipped(b"\x7fELF" + bytes(100), "archive/data/aotinductor/model.so"),
    "a Windows program": b"MZ" + bytes(58) + b"\x40\0\0\0PE\0\0" + bytes(50),
    "a pickle, and something": pickle.dumps([1]) + b"\xff" * 50 + CALL,
    "a long text": b"a line\n" * (10 << 20),
    "a text with NULs": "{'a': 1}".encode("utf-16-le"),
    "torch.package": zipped(b"", "m/.data/extern_modules"),
}


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path, name):
    (tmp_path / "model.keras").write_bytes(FILES[name])
    assert not milepost.scan(tmp_path / "model.keras").is_clean


def test_a_library_in_a_known_archive(tmp_path):
    data = in_torch(pickle.dumps({}, 2))
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as new, zipfile.ZipFile(io.BytesIO(data)) as old:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr(old.namelist()[0].split("/")[0] + "/lib.so", b"\x7fELF" + bytes(60))
    assert milepost.scan(tmp_path / "a.pt").verdict == "dangerous"


CONFIGS = {
    "downloads": {"class_name": "get_file", "module": "keras.utils", "config": {}},
    "as a function": {"class_name": "function", "module": "keras.utils", "config": "get_file"},
    "switches safety off": {
        "class_name": "function",
        "config": "enable_unsafe_deserialization",
        "module": "keras.config",
    },
    "by a dotted name": {"class_name": "utils.get_file", "module": "keras", "config": {}},
    "loads another": {"class_name": "load_model", "module": "keras.models", "config": {}},
    "custom Lambda": {"class_name": "keras.layers>Lambda", "config": {}},
    "nested": {"config": {"layer": {"config": {"layers": [LAMBDA]}}}},
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_configurations(tmp_path, name, encoding):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]), encoding)
    assert not milepost.scan(tmp_path / "config.json").is_clean
    data = json.dumps(CONFIGS[name]).encode(encoding)
    (tmp_path / "m.keras").write_bytes(zipped(data, "config.json"))
    assert not milepost.scan(tmp_path / "m.keras").is_clean


@pytest.mark.parametrize("attribute", ["model_config", "training_config"])
@pytest.mark.parametrize("block", [0, 512])
def test_hdf5(tmp_path, attribute, block):
    import h5py

    with h5py.File(tmp_path / "m.h5", "w", userblock_size=block) as file:
        file.attrs["model_config"] = "{}"
        file.attrs[attribute] = json.dumps({"config": LAMBDA})
        file.create_group("model_weights")
    if block:
        with open(tmp_path / "m.h5", "r+b") as file:
            file.write(b"\x89PNG\r\n\x1a\n")
    assert milepost.scan(tmp_path / "m.h5").verdict == "dangerous"


def field(number, data):
    assert len(data) < 1 << 14
    return bytes([number << 3 | 2, len(data) & 127 | 128, len(data) >> 7]) + data


def test_keras_beside_a_graph(tmp_path):
    text = json.dumps({"config": LAMBDA}).encode()
    (tmp_path / "keras_metadata.pb").write_bytes(field(1, field(5, text)))
    assert milepost.scan(tmp_path).verdict == "dangerous"
    (tmp_path / "keras_metadata.pb").unlink()
    graph = field(2, field(7, field(1, field(4, field(3, text)))))
    (tmp_path / "saved_model.pb").write_bytes(graph)
    assert milepost.scan(tmp_path).verdict == "dangerous"


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch harmed']",
        "%TAG !p! tag:yaml.org,2002:pyth\n---\n!p!on/object/apply:os.system ['touch harmed']",
        "a: !!pyth%6fn/object/apply:os.system ['touch harmed']",
        "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch harmed']",
    ],
)
def test_yaml(tmp_path, text):
    (tmp_path / "hparams.yaml").write_text(text)
    assert milepost.scan(tmp_path).verdict == "dangerous"


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_items_of_a_distributed_checkpoint(tmp_path):
    import torch.distributed.checkpoint as dcp

    class Item:
        def __reduce__(self):
            return os.getcwd, ()

    dcp.save({"a": torch.ones(3), "b": Item()}, checkpoint_id=str(tmp_path / "dcp"), no_dist=True)
    assert not milepost.scan(tmp_path / "dcp").is_clean


# And what is none.


def test_numbers_that_look_like_something_are_clean(tmp_path):
    marks = (b"\x80\x02", b"\x80\x04", b"\x1f\x8b", b"BZh", b"x\x9c", b"x\x01", b"MZ", b"BM")
    random = np.random.default_rng(0)
    tensors = {
        f"{i}": torch.from_numpy(np.frombuffer(mark + random.bytes(4096), np.uint8).copy())
        for i, mark in enumerate(marks)
    }
    tensors |= {
        f"first {i}": torch.from_numpy(
            np.frombuffer(bytes([i]) + random.bytes(999), np.uint8).copy()
        )
        for i in range(256)
    }
    torch.save(tensors, tmp_path / "a.pt")
    assert list(milepost.scan(tmp_path / "a.pt").findings) == []


def test_a_header_whose_length_looks_like_a_pickle_is_clean(tmp_path):
    for length in range(8, 1200, 8):
        padding = "x" * length
        save_file({"a": np.zeros(1 << 12)}, tmp_path / f"{length}.safetensors", {"p": padding})
    assert milepost.scan(tmp_path).findings == ()


@pytest.mark.parametrize(
    "text",
    ["cat\ndog\nbird\n", "airplane\nautomobile\n", "ibex\nfox\n", "I am a text.\n", "Name\n.\n",
     "car\nball\nRoad\n", "(a) one\n", "0\n1\n2\n", "Vocabulary\n" * 100, "K.\n"],
)  # fmt: skip
def test_texts_that_look_like_pickles_are_clean(tmp_path, text):
    (tmp_path / "labels.txt").write_text(text)
    assert milepost.scan(tmp_path).findings == ()


def test_a_snapshot_in_the_cache_of_the_hub_is_clean(tmp_path):
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b/snapshots/1234"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    save_file({"a": np.zeros(3)}, blobs / "abc")
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    assert milepost.scan(snapshot).findings == ()
    (snapshot / "config.json").symlink_to("../../../elsewhere.json")
    (tmp_path / "elsewhere.json").write_text("{}")
    assert milepost.scan(snapshot).verdict == "suspicious"


def test_a_model_of_keras_is_clean(tmp_path):
    import keras

    inputs = keras.Input((8,))
    x = keras.layers.Dense(4, activation="relu", kernel_regularizer="l2")(inputs)
    model = keras.Model(inputs, keras.ops.add(keras.layers.Dropout(0.1)(x), 1.0))
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, 10)
    model.compile(keras.optimizers.Adam(schedule), keras.losses.mean_squared_error, ["mae"])
    model.save(tmp_path / "m.keras")
    model.save(tmp_path / "m.h5")
    model.save_weights(tmp_path / "m.weights.h5")
    model.export(tmp_path / "exported", verbose=False)
    findings = milepost.scan(tmp_path).findings
    assert [f for f in findings if f.severity is not Severity.NOTE] == []


def test_folders_that_lead_to_themselves(tmp_path):
    (tmp_path / "loop").symlink_to(".")
    assert not milepost.scan(tmp_path).is_clean


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "refused", path)

    monkeypatch.setattr(os, "listdir", refused)
    assert milepost.scan(tmp_path).verdict == "unreadable"


@pytest.mark.parametrize("elements", [1 << 30, 10**10])
def test_a_tensor_that_repeats_its_storage_without_end_is_a_trick(tmp_path, elements):
    torch.save({"w": torch.ones(1).expand(elements)}, tmp_path / "bomb.pt")
    (finding,) = milepost.scan(tmp_path / "bomb.pt").findings
    assert (finding.severity, finding.what) == (Severity.DANGEROUS, "w")
    assert "'w' repeats 4 bytes" in finding.why
    torch.save({"w": torch.ones(3).expand(40, 3)}, tmp_path / "small.pt")
    assert milepost.scan(tmp_path / "small.pt").is_clean
