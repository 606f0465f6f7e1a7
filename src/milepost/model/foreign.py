"""Whole models out of the files that frameworks write themselves: `.keras`, and Keras's HDF5.

The structure goes through the same checks as that of a file of milepost's, and the weights
through the same plan: all of them, or nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from milepost.checkpoint.restore import Restore
from milepost.dtypes import Array
from milepost.errors import (
    MissingPackageError,
    RestoreRefusedError,
    UnknownFormatError,
    UsageError,
)
from milepost.formats.keras_config import KerasSnapshot
from milepost.model.randomness import unchanged_random_state
from milepost.record import ArrayRecord, Box, ForeignArray, Record
from milepost.snapshot import Snapshot


def load_keras(snapshot: KerasSnapshot, names: Mapping[str, Any]) -> Any:
    """The model in a file of Keras's, as `keras.saving.load_model` makes it.

    Raises:
        UnknownFormatError: the file has weights alone.
        RestoreRefusedError: its weights are not those of its structure.
        UnknownClassError, UntrustedError, UsageError: as of a file of milepost's.
    """
    if snapshot.structure.config is None:
        raise UnknownFormatError(
            f"{snapshot.name} holds weights without the model's structure: build the model by "
            "code, and load them with Checkpoint(model=model).restore(path)"
        )
    try:
        keras: Any = importlib.import_module("milepost.frameworks.keras.foreign")
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] == "milepost":
            raise
        raise MissingPackageError(
            f"{snapshot.name} holds a model of Keras, which cannot be imported ({error}): "
            "pip install keras"
        ) from error
    specs = {name: snapshot.spec(name) for name in snapshot}
    with unchanged_random_state():
        model = keras.build(snapshot.structure, names, specs)
        paths, kept = keras.sources(model, snapshot)
    restore = Restore({"": model}, _renamed(snapshot, paths, kept, keras.target_specs(model)))
    if not restore.plan.is_exact:
        raise RestoreRefusedError(
            f"cannot load {restore.plan}\nThe weights in the file are not those of its structure, "
            "or a class is not what it was when it was saved: pass the class of then in "
            "custom_objects",
            restore.plan,
        )
    return restore.run(fresh=True)[""]


def _renamed(
    snapshot: KerasSnapshot,
    paths: Mapping[str, str],
    kept: Mapping[str, Array],
    targets: Mapping[str, str],
) -> Snapshot:
    """The leaves of a file under the names that the live model has for them.

    What the model has no place for keeps its name, and the plan tells of it.
    """
    records: dict[str, Record] = {}
    for name, path in paths.items():
        if path in snapshot:
            records[name] = _counted(snapshot, path, targets[name])
    used = set(paths.values())
    records |= {path: snapshot.record(path) for path in snapshot if path not in used}
    for name, value in kept.items():
        records.setdefault(name, _constant(value))
    return Snapshot(snapshot.name, records, snapshot._files, snapshot.description)


def _counted(snapshot: Snapshot, path: str, dtype: str) -> Record:
    """A record; counters and seeds as the int64 that they are in every state."""
    record = snapshot.record(path)
    narrow = isinstance(record, ArrayRecord) and record.dtype in ("int32", "uint32", "uint64")
    if dtype != "int64" or not narrow or not isinstance(record, ArrayRecord):
        return record
    source = record

    def read(box: Box) -> Array:
        found = snapshot.read_box(path, source, box)
        if found.dtype == np.uint64 and found.size and int(found.max()) >= 1 << 63:
            raise UsageError(f"{snapshot.name}, leaf {path!r}: {found.max()} is too large")
        return found.astype(np.int64)

    return ForeignArray("int64", record.shape, (), read)


def _constant(value: Array) -> ForeignArray:
    def read(box: Box) -> Array:
        return np.array(value[tuple(slice(start, stop) for start, stop in box)])

    return ForeignArray(value.dtype.name, value.shape, (), read)
