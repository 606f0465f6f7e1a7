"""Which format is written: the one that is named, or the one of the path's extension."""

from __future__ import annotations

import importlib
import os

from milepost.conversion.writers import Writer
from milepost.errors import UsageError
from milepost.storage.local import LocalStorage
from milepost.store import Store

# Name -> extensions, and the module in `writers`. The longest extensions first.
MODEL = "model"
_EXTENSIONS = {
    "weights.h5": (".weights.h5", ".h5", ".hdf5"),
    "safetensors": (".safetensors",),
    "npz": (".npz",),
    "torch": (".pt", ".pth", ".bin"),
    "gguf": (".gguf",),
    "store": (),
    MODEL: (),
}
NAMES = tuple(_EXTENSIONS)
_MODULES = {"weights.h5": "h5"}


def target_of(path: str, to: str | None, *, sharded: bool) -> str:
    """The name of the format to write.

    Raises:
        UsageError: it is unknown, or the path does not tell.
    """
    if to is not None:
        if to not in _EXTENSIONS:
            raise UsageError(f"to must be one of {', '.join(NAMES)}: found {to!r}")
        found = to
    else:
        found = _by_path(path, sharded)
    if sharded and found not in ("safetensors", MODEL):
        raise UsageError(f"shard_size is for safetensors and model files: {found} has no shards")
    return found


def _by_path(path: str, sharded: bool) -> str:
    for name, extensions in _EXTENSIONS.items():
        if path.lower().endswith(extensions) and extensions:
            return name
    if os.path.isdir(path) and Store.is_there(LocalStorage(path)):
        return "store"
    if sharded:
        return "safetensors"
    known = ", ".join(extension for every in _EXTENSIONS.values() for extension in every)
    raise UsageError(
        f"{path} does not tell which format to write: give it an extension ({known}), or say "
        f"to= one of {', '.join(NAMES)}"
    )


def writer_of(target: str) -> Writer:
    """The module that writes a format."""
    name = _MODULES.get(target, target)
    writer: Writer = importlib.import_module(f"milepost.conversion.writers.{name}")
    return writer
