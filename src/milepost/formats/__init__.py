"""File formats: one module each, from what lies at a path to a snapshot. None imports a framework.

A format is recognised by its content, never by its name. Each module has these two:

    recognises(place) -> bool      from the first and last bytes, or the names in a folder
    open_place(place) -> Snapshot  which raises DamagedError if it is not what it seemed

Another package adds one with an entry point of the group `milepost.formats`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol

from milepost.errors import DamagedError, UnknownFormatError
from milepost.formats.place import Place, place_at
from milepost.snapshot import Snapshot

# In the order in which they are asked: those with an unmistakable mark first.
_MODULES: tuple[str, ...] = (
    "keras_shards",
    "gguf",
    "tflite",
    "torch_sharded",
    "sharded",
    "safetensors",
    "equinox",
    "npy",
    "torch_exported",
    "torch_zip",
    "torch_legacy",
    "npz",
    "onnx",
    "orbax",
    "torch_distributed",
    "saved_model",
    "tensorflow_checkpoint",
    "keras",
    "hdf5",
    "flax",
)


class Format(Protocol):
    """A module of a format."""

    def recognises(self, place: Place) -> bool: ...

    def open_place(self, place: Place) -> Snapshot: ...


def open_path(path: str) -> Snapshot:
    """The snapshot at an absolute path, whatever its format.

    Raises:
        PathNotFoundError: there is nothing.
        UnknownFormatError: no format that milepost reads.
        DamagedError: it is of a known format, and not valid.
        UntrustedError: it asks for something that opening a file must never do.
        MissingPackageError: the format needs a package that is not installed.
    """
    place = place_at(path)
    found = recognised(place)
    if found is not None:
        return found.open_place(place)
    if place.is_folder:
        raise UnknownFormatError(f"{path} is a folder of no format that milepost reads")
    if place.size == 0:
        raise DamagedError(f"{path} is empty: restore it from a backup")
    raise UnknownFormatError(
        f"{path} is of no format that milepost reads (it begins with {place.start[:8]!r})"
    )


def recognised(place: Place) -> Format | None:
    """The format of what lies at a place."""
    return next((found for found in formats() if found.recognises(place)), None)


def formats() -> Iterator[Format]:
    """Every format, in the order in which they are asked; each imported when its turn comes."""
    for name in _MODULES:
        yield importlib.import_module(f"milepost.formats.{name}")
    for entry in _added():
        yield entry.load()


@functools.cache
def _added() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group="milepost.formats"))


__all__ = ["Format", "Place", "open_path", "place_at", "recognised"]
