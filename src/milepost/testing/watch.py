"""What no reader may do with a file from who knows where, watched while it reads.

Import, start a process, ask the network, open a file elsewhere, take long, take much memory.
Imports, calls and files are seen by Python's audit events (PEP 578); memory is seen on Linux.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

SECONDS = 2.0  # of the processor's time: other processes do not count
# How much longer a busy or an old processor may take. What these bounds are for is work without
# a bound: one that grows with what a file claims, or with the square of what it holds.
SLOWER = 3
BYTES = 300 << 20

_CALLS = (
    "ctypes.dlopen",
    "marshal.loads",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.system",
    "pickle.find_class",
    "pty.spawn",
    "socket.",
    "subprocess.",
    "urllib.",
)
_ON_FILES = ("open", "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.symlink")
_MODULES = tuple(importlib.machinery.all_suffixes())
# What a reader may load when it first needs it: Python's own, and what milepost depends on.
_OURS = {"blake3", "crc32c", "h5py", "milepost", "ml_dtypes", "numpy", "tensorstore", "xxhash"}
_MAY_IMPORT = _OURS | set(sys.stdlib_module_names)
# `marshal` loads what `import` compiled; a process has no other use for it here.
_IMPORTS_USE = ("marshal.loads", "ctypes.dlopen")

_active: list[_Watch] = []


class _Watch:
    def __init__(self, folder: str) -> None:
        self.seen: list[str] = []
        self._folder = os.path.realpath(folder)
        self._thread = threading.get_ident()
        self._may_open = {tempfile.gettempdir(), os.devnull}

    def notice(self, event: str, arguments: tuple[Any, ...]) -> None:
        if threading.get_ident() != self._thread:
            return
        if event == "import":
            harmless = arguments[0].partition(".")[0] in _MAY_IMPORT
        elif event in _ON_FILES:
            harmless = self._may_use(arguments[0])
        elif event.startswith(_CALLS):
            harmless = event in _IMPORTS_USE and importing()
        else:
            return
        if not harmless:
            where = "".join(traceback.format_stack(limit=8)[:-2])
            self.seen.append(f"{event} {arguments[:1]!r:.300}\n{where}")

    def _may_use(self, path: object) -> bool:
        if isinstance(path, int):  # what is open already
            return True
        text = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]
        return (
            text == self._folder
            or text.startswith(self._folder + os.sep)
            or text.endswith(_MODULES)
            or text in self._may_open
        )


def importing() -> bool:
    """Whether what happens now happens for an import."""
    return any(
        frame.f_code.co_filename.startswith("<frozen importlib")
        for frame, _ in traceback.walk_stack(None)
    )


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    for watch in _active:
        watch.notice(event, arguments)


@functools.cache  # once, and for good: an audit hook cannot be taken away
def _install() -> None:
    sys.addaudithook(_hook)


@contextlib.contextmanager
def watched(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Within it, whatever reads files of `folder` must stay harmless, quick and small.

    Raises:
        AssertionError: it did not; the text says what it did, and where.
    """
    _install()
    watch = _Watch(os.fspath(folder))
    size = _reset_peak()
    _active.append(watch)
    try:
        with soon(SECONDS):
            yield
    finally:
        _active.remove(watch)
    grown = _peak() - size
    assert not watch.seen, "\n".join(watch.seen)
    assert grown < BYTES, f"it took {grown >> 20} MiB of memory"


@contextlib.contextmanager
def soon(seconds: float) -> Iterator[None]:
    """Within it, whatever is done takes `seconds` of a free processor's time at most.

    Raises:
        AssertionError: it took more than `SLOWER` times as long.
    """
    start = time.process_time()
    yield
    taken = time.process_time() - start
    assert taken < SLOWER * seconds, f"it took {taken:.1f} s of the processor's time"


def _reset_peak() -> int:
    """Begin to measure the most memory that this process has; returns what it has now."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _peak()


def _peak() -> int:
    """The most bytes that it had since; 0 where the system does not tell."""
    try:
        with open("/proc/self/status", "rb") as file:
            _, _, rest = file.read().partition(b"VmHWM:")
        return int(rest.split(None, 1)[0]) << 10
    except (OSError, IndexError):
        return 0


__all__ = ["BYTES", "SECONDS", "SLOWER", "soon", "watched"]
