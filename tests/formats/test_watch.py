"""The watch that the formats' tests keep must see what it is for."""

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import time

import pytest

from milepost.testing import watch
from milepost.testing.watch import watched


def test_what_is_harmless_passes(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with watched(tmp_path):
        (tmp_path / "file").read_bytes()
        os.rename(tmp_path / "file", tmp_path / "other")
        sum(range(1000))


def imports(folder):
    sys.modules.pop("this", None)
    (folder / "weapon.py").write_text("")
    sys.path.insert(0, str(folder))
    try:
        import weapon  # noqa: F401
    finally:
        sys.path.pop(0)
        sys.modules.pop("weapon", None)


def spins(folder):
    end = time.process_time() + 1.1 * watch.SLOWER * watch.SECONDS
    while time.process_time() < end:
        pass


HARMS = {
    "import": imports,
    "subprocess.Popen": lambda folder: subprocess.run(["true"], check=True),
    "os.system": lambda folder: os.system("true"),
    "os.posix_spawn": lambda folder: os.waitpid(
        os.posix_spawn("/bin/true", ["true"], os.environ), 0
    ),
    "socket.__new__": lambda folder: socket.socket().close(),
    "pickle.find_class": lambda folder: pickle.loads(b"cos\nsystem\n."),
    "open": lambda folder: open("/etc/hostname").close(),
    "os.mkdir": lambda folder: (folder.parent / "elsewhere").mkdir(),
    "os.symlink": lambda folder: os.symlink("/", folder.parent / "link"),
    "processor's time": spins,
    "MiB of memory": lambda folder: bytearray(b"x") * (310 << 20),
}


@pytest.mark.parametrize("named", HARMS)
def test_it_sees(tmp_path, monkeypatch, named):
    monkeypatch.setattr(watch, "SECONDS", 0.5)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(AssertionError, match=named), watched(folder):
        HARMS[named](folder)


def swallows():
    with contextlib.suppress(OSError), open("/no/such/file"):
        pass


def test_what_a_reader_swallows_is_seen(tmp_path):
    with pytest.raises(AssertionError, match=r"test_watch\.py"), watched(tmp_path):
        swallows()
