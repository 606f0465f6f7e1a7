"""Files made to harm whoever opens them: refused with an error of ours, and nothing happened.

Pickles in all of PyTorch's wrappings, headers of safetensors that lie, documents that lie. Each
is opened, shown, verified and loaded, by one process that notes what is imported, opened and
started, and how much memory that took.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile

import pytest
import torch

from milepost import sealed
from milepost.formats import model_file
from milepost.formats.model_file import ModelDocument
from milepost.program import Program

WITNESS = "harmed"
HUGE = 1 << 62


class Bomb:
    """What unpickles by running a command."""

    def __reduce__(self):
        return os.system, (f"touch {WITNESS}",)


def header(document, data=b"", length=None):
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def model(**changes):
    """A model file whose document is sealed, and says what it should not."""
    document = ModelDocument(changes.pop("framework", "torch"), changes.pop("structure", {}), {})
    metadata = model_file.encode(
        ModelDocument(document.framework, document.structure, {}, **changes)
    )
    return header({"__metadata__": metadata})


def resealed(**changes):
    """A model file with other entries in its document, which is sealed again."""
    sound = model_file.encode(ModelDocument("torch", {}, {}))[model_file.KEY].encode()
    body = {**sealed.unseal(model_file.KIND, sound, ""), **changes}
    del body["format"]
    return header({"__metadata__": {model_file.KEY: sealed.seal(model_file.KIND, body).decode()}})


def torch_zip(path):
    torch.save({"weight": torch.ones(2), "bomb": Bomb()}, path)


def torch_legacy(path):
    torch.save(Bomb(), path, _use_new_zipfile_serialization=False)


def torch_script(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
        archive.writestr("archive/code/__torch__.py", f"import os; os.system('touch {WITNESS}')")


FILES = {
    "a pickle": pickle.dumps(Bomb()),
    "a pickle behind a length": struct.pack("<Q", 64) + b"{" + pickle.dumps(Bomb()),
    "torch's zip": torch_zip,
    "torch's older format": torch_legacy,
    "TorchScript": torch_script,
    "a duplicate key": header(
        b'{"a":%b,"a":%b}' % ((json.dumps(tensor()).encode(),) * 2), bytes(8)
    ),
    "overlapping offsets": header({"a": tensor(), "b": tensor(offsets=(4, 12))}, bytes(12)),
    "huge offsets": header({"a": tensor(offsets=(0, HUGE))}, bytes(8)),
    "offsets that wrap around": header({"a": tensor(offsets=((1 << 64) - 8, 1 << 64))}, bytes(8)),
    "a shape that overflows": header({"a": tensor((1 << 40, 1 << 40))}, bytes(8)),
    "a shape of zero and more": header({"a": tensor((0, HUGE, HUGE), (0, 0))}),
    "a terabyte": header({"a": tensor((1 << 38,), (0, 1 << 40))}, bytes(8)),
    "a header of exabytes": header(b"{}", length=1 << 60),
    "a header of 100 MB": header(b"{" + b" " * 90_000_000 + b"}", bytes(3)),
    "deep nesting": header(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "a name with a surrogate": header(b'{"\\ud800":%b}' % json.dumps(tensor()).encode(), bytes(8)),
    "a framework that is a path": model(framework="../../os"),
    "a framework that is a module": model(framework="base"),
    "a framework with dots": model(framework="torch.structure"),
    "a structure that is none": model(structure={"module": {"class": "os.system"}}),
    "an example of a terabyte": resealed(
        example={
            "inputs": None,
            "outputs": None,
            "leaves": {
                kind: {"dtype": "float32", "shape": [1 << 38], "data": "AAAA"}
                for kind in ("inputs", "outputs")
            },
            "surroundings": {},
            "tolerance": 0,
        }
    ),
    "an example that nests itself away": resealed(
        example={"inputs": {"list": [None]}, "outputs": None, "leaves": {}, "surroundings": {}}
    ),
    "a signature that is none": resealed(signature={"inputs": [{"shape": HUGE}]}),
    "labels that are none": resealed(about={"labels": 3, "metrics": ["a"]}),
    "a program with strange weights": model(
        program=Program("onnx", b"", {"w": "../../etc/passwd"}, (), (), 0.0)
    ),
    "assets by path": header(
        {
            "__metadata__": model_file.encode(ModelDocument("keras", {}, {})),
            "assets/../../harmed": tensor(dtype="U8", offsets=(0, 2)),
        },
        b"xx",
    ),
}

OPENER = r"""
import json, os, resource, sys
import milepost, milepost.opening, milepost.model, milepost.store, milepost.formats
import encodings.idna, difflib, numpy.lib.mixins
import atexit, numpy.ma, torch, milepost.frameworks.torch
milepost.frameworks.finder()(0)  # looks for frameworks of others, once
list(milepost.formats.formats())  # and for formats
STARTS = ("subprocess", "os.system", "os.exec", "socket", "ctypes.dlopen")
events = []
folder = sys.argv[1]

def watch(event, arguments):
    if event == "import" or event.startswith(STARTS):
        events.append(f"{event} {arguments[:1]}")
    elif event in ("exec", "compile", "pickle.find_class"):
        events.append(event)
    elif event == "open" and not str(arguments[0]).startswith(folder):
        events.append(f"open {arguments[0]}")

sys.addaudithook(watch)
results = {}
for name in sorted(os.listdir(folder)):
    path = os.path.join(folder, name)
    for verb in (milepost.open, milepost.verify, milepost.model_card, milepost.load_model):
        events.clear()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        modules = set(sys.modules)
        try:
            opened = verb(path)
            found = "nothing"
            getattr(opened, "close", lambda: None)()
        except milepost.MilepostError as error:
            found = type(error).__name__
        except BaseException as error:
            found = f"not ours: {error!r:.300}"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        results[f"{name}: {verb.__name__}"] = [
            found, grown // 1024, list(events), sorted(set(sys.modules) - modules)
        ]
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("hostile")
    (folder / "files").mkdir()
    for name, content in FILES.items():
        path = folder / "files" / name
        content(path) if callable(content) else path.write_bytes(content)
    finished = subprocess.run(
        [sys.executable, "-c", OPENER, str(folder / "files")],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert not list(folder.rglob(WITNESS))
    return json.loads(finished.stdout)


def test_the_files_would_do_harm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch_zip("file")
    torch.load("file", weights_only=False)
    assert (tmp_path / WITNESS).exists()


@pytest.mark.parametrize("name", FILES)
def test_it_is_refused(results, name):
    found = {key: value[0] for key, value in results.items() if key.startswith(f"{name}: ")}
    assert len(found) == 4
    for key, error in found.items():
        assert not error.startswith("not ours"), (key, error)
    assert found[f"{name}: load_model"] in (
        "DamagedError",
        "UnknownFormatError",
        "VersionError",
        "UnknownClassError",
        "UntrustedError",
    ), found


@pytest.mark.parametrize("name", FILES)
def test_nothing_happened(results, name):
    for verb in ("open", "verify", "model_card", "load_model"):
        _, megabytes, events, modules = results[f"{name}: {verb}"]
        assert megabytes < 300
        assert (events, modules) == ([], [])
