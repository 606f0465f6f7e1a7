"""`scan`: whatever the wrapping, code is found; what cannot be looked into is not clean."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import milepost
from milepost.scanning import Severity


class Harm:
    """Makes a file where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch harmed",)


PICKLES = {f"protocol {n}": pickle.dumps([1, Harm()], protocol=n) for n in range(6)}
PICKLES["stack global by memo"] = (
    b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93\x8c\x04true\x85R."
)
PICKLES["inst"] = b"(S'touch harmed'\nios\nsystem\n."
PICKLES["broken behind the call"] = b"cposix\nsystem\n(S'touch harmed'\ntR\xff\xff"
PICKLES["second pickle"] = pickle.dumps({}) + pickle.dumps(Harm())
PICKLES["eval by another name"] = b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R."


def zipped(data, name="archive/data.pkl"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def tarred(data):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("pickle")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def object_array(data):
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


WRAPPINGS = {
    "bare": lambda data: data,
    "zip": zipped,
    "zip in zip": lambda data: zipped(zipped(data), "inner.pt"),
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zlib": zlib.compress,
    "tar": tarred,
    "tar.gz": lambda data: gzip.compress(tarred(data)),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("name", PICKLES)
def test_a_weapon_is_found(tmp_path, wrapping, name):
    path = tmp_path / "model.bin"
    path.write_bytes(WRAPPINGS[wrapping](PICKLES[name]))
    report = milepost.scan(path)
    assert report.verdict == "dangerous"
    worst = {f.what for f in report.findings if f.severity is Severity.DANGEROUS}
    assert worst & {"posix.system", "os.system", "__builtin__.eval"}


def test_the_offset_is_that_of_the_opcode(tmp_path):
    data = PICKLES["protocol 0"]
    (tmp_path / "m.pt").write_bytes(data)
    [finding] = milepost.scan(tmp_path / "m.pt").findings
    assert data[finding.offset :].startswith(b"cposix\nsystem\n")


def test_an_object_array_is_not_clean(tmp_path):
    (tmp_path / "a.npy").write_bytes(object_array(PICKLES["protocol 2"]))
    assert milepost.scan(tmp_path / "a.npy").verdict == "dangerous"


def sound_files(folder):
    net = torch.nn.Linear(2, 2)
    torch.save(net.state_dict(), folder / "zip.pt")
    torch.save(net.state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
    optimizer = torch.optim.Adam(net.parameters())
    torch.save({"epoch": 1, "optimizer": optimizer.state_dict()}, folder / "run.ckpt")
    torch.jit.script(net).save(str(folder / "script.pt"))
    np.savez_compressed(folder / "arrays.npz", a=np.ones(3))
    np.save(folder / "array.npy", np.ones(3))
    save_file({"a": np.ones(3)}, folder / "a.safetensors")
    milepost.Checkpoint(a=np.ones(3)).save(folder / "store")
    (folder / "README.md").write_text("# A model\n")
    (folder / "config.json").write_text(json.dumps({"hidden_size": 4}))
    (folder / "empty").write_bytes(b"")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_people_save_is_clean(tmp_path):
    sound_files(tmp_path)
    report = milepost.scan(tmp_path)
    assert [f for f in report.findings if f.severity is not Severity.NOTE] == []
    assert report.is_clean
    assert report.files >= 13


def test_one_unreadable_part_makes_the_folder_not_clean(tmp_path):
    sound_files_made = tmp_path / "a.safetensors"
    save_file({"a": np.ones(3)}, sound_files_made)
    assert milepost.scan(tmp_path).is_clean
    (tmp_path / "b.safetensors").write_bytes(sound_files_made.read_bytes()[:-1])
    assert milepost.scan(tmp_path).verdict == "unreadable"


def test_bytes_of_no_known_kind_are_not_clean(tmp_path):
    (tmp_path / "weights").write_bytes(np.random.default_rng(1).bytes(5000))
    assert milepost.scan(tmp_path).verdict == "unreadable"


def test_a_pickle_that_does_not_end(tmp_path):
    (tmp_path / "m.pt").write_bytes(b"\x80\x02]q\x00")
    assert milepost.scan(tmp_path).verdict == "unreadable"


def test_a_bomb(tmp_path):
    with gzip.open(tmp_path / "m.pt", "wb") as file:
        for _ in range(100):
            file.write(bytes(1 << 20))
    assert not milepost.scan(tmp_path).is_clean


def test_links_out_of_the_folder(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "outside.txt").write_text("text")
    (tmp_path / "inside" / "link").symlink_to("../outside.txt")
    [finding] = milepost.scan(tmp_path / "inside").findings
    assert finding.what == "../outside.txt"
    (tmp_path / "inside" / "link").unlink()
    (tmp_path / "inside" / "own.txt").write_text("text")
    (tmp_path / "inside" / "link").symlink_to("own.txt")
    assert milepost.scan(tmp_path / "inside").is_clean


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert milepost.scan(tmp_path).verdict == "dangerous"


def test_a_program(tmp_path):
    (tmp_path / "x").write_bytes(b"\x7fELF" + bytes(100))
    assert milepost.scan(tmp_path).verdict == "dangerous"


@pytest.mark.parametrize(
    ("config", "verdict"),
    [
        ({"auto_map": {"AutoModel": "modeling.Model"}}, "suspicious"),
        ({"class_name": "Lambda", "module": "keras.layers", "config": {}}, "dangerous"),
        ({"config": {"layers": [{"class_name": "__lambda__", "config": {}}]}}, "dangerous"),
        ({"config": [{"class_name": "run", "module": "subprocess"}]}, "suspicious"),
        ({"class_name": "Dense", "module": "keras.layers", "registered_name": None}, "clean"),
    ],
)
def test_configurations(tmp_path, config, verdict):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert milepost.scan(tmp_path).verdict == verdict


def test_source_code_beside_a_model(tmp_path):
    (tmp_path / "modeling.py").write_text("import os\n")
    assert milepost.scan(tmp_path).verdict == "suspicious"


def test_tars_that_lead_elsewhere(tmp_path):
    with tarfile.open(tmp_path / "m.tar", "w") as archive:
        member = tarfile.TarInfo("../../x")
        archive.addfile(member, io.BytesIO())
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    found = {f.what for f in milepost.scan(tmp_path).findings}
    assert found == {"../../x", "/etc/passwd"}


def test_a_saved_model_that_writes_files(tmp_path):
    import tensorflow as tf

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
        def write(self, text):
            tf.io.write_file("/tmp/harmed", text)
            return text

    class Sound(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([2], tf.float32)])
        def double(self, x):
            return x * 2

    tf.saved_model.save(Sound(), str(tmp_path / "sound"))
    assert milepost.scan(tmp_path / "sound").is_clean
    tf.saved_model.save(Module(), str(tmp_path / "harm"))
    report = milepost.scan(tmp_path / "harm")
    assert report.verdict == "suspicious"
    assert [f.what for f in report.findings] == ["WriteFile"]


def test_the_command_line(tmp_path):
    (tmp_path / "m.pt").write_bytes(PICKLES["protocol 2"])
    (tmp_path / "t.txt").write_text("text")
    scan = [sys.executable, "-m", "milepost", "scan"]
    found = subprocess.run([*scan, tmp_path, "--json"], capture_output=True, check=False)
    document = json.loads(found.stdout)
    assert (found.returncode, document["verdict"]) == (6, "dangerous")
    assert document["findings"][0]["what"] == "posix.system"
    clean = [*scan, tmp_path / "t.txt"]
    assert subprocess.run(clean, capture_output=True, check=False).returncode == 0
    missing = [*scan, tmp_path / "nothing"]
    assert subprocess.run(missing, capture_output=True, check=False).returncode == 3
