"""`load_model`: a whole model out of one safetensors file."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from milepost.checkpoint.restore import Restore
from milepost.errors import (
    MissingPackageError,
    RestoreRefusedError,
    UnknownFormatError,
    VersionError,
)
from milepost.formats import model_file, open_source
from milepost.formats.safetensors import ModelSnapshot
from milepost.model.randomness import unchanged_random_state
from milepost.snapshot import Snapshot, closing_on_error
from milepost.storage.local import open_file

# Which package rebuilds a model, and how to get it.
_PACKAGES = {"keras": "pip install keras", "torch": "pip install torch"}


def load_model(
    path: str | os.PathLike[str], *, custom_objects: Mapping[str, Any] | None = None
) -> Any:
    """Load a model that `save_model` saved, as it was: ready to predict, or to train on.

    A Keras model loads on any backend. No code of the file is run, because it has none:
    its structure names classes, and these must be the framework's own, or registered with
    it, or passed here.

    Arguments:
        path: the file.
        custom_objects: name -> class or function, for those that are not the framework's.

    Raises:
        PathNotFoundError: there is no such file.
        UnknownFormatError: it is something else.
        UnknownClassError: it needs a class that is not known; the message has its name.
        RestoreRefusedError: a class makes other variables than it did when it was saved.
        DamagedError: its bytes are not what was saved.
        MissingPackageError: the framework is not installed.
    """
    source = open_file(os.path.abspath(os.fspath(path)))
    with closing_on_error([source]):
        snapshot = open_source(source)
    with snapshot:
        if not isinstance(snapshot, ModelSnapshot):
            raise UnknownFormatError(
                f"{snapshot.name} is a {snapshot.description.format} file without a model's "
                "structure: expected one that save_model wrote"
            )
        return _build(snapshot, custom_objects or {})


def _build(snapshot: ModelSnapshot, custom_objects: Mapping[str, Any]) -> Any:
    document = snapshot.document
    framework = _framework(document.framework, snapshot.name)
    assets = {n: _bytes(snapshot, n) for n in snapshot if n.startswith(model_file.ASSETS)}
    state = _WithoutAssets(snapshot)
    specs = {name: state.spec(name) for name in state}
    with unchanged_random_state():
        model = framework.build(
            document.structure,
            {name.removeprefix(model_file.ASSETS): data for name, data in assets.items()},
            custom_objects,
            specs,
        )
    restore = Restore({"": model}, state)
    if not restore.plan.is_exact:
        raise RestoreRefusedError(
            f"cannot load {restore.plan}\nA class of the model is not what it was when it was "
            "saved, or its framework is of another version: pass the class of then in "
            "custom_objects",
            restore.plan,
        )
    return restore.run()[""]


class _WithoutAssets(Snapshot):
    """The leaves of a model file that are the model's state."""

    def __init__(self, whole: ModelSnapshot) -> None:
        records = {
            name: whole.record(name) for name in whole if not name.startswith(model_file.ASSETS)
        }
        super().__init__(whole.name, records, whole._files, whole.description)


def _bytes(snapshot: Snapshot, name: str) -> bytes:
    return np.asarray(snapshot.read(name)).tobytes()


def _framework(name: str, file: str) -> Any:
    """Our module for a framework, which imports the framework: that is what was asked for."""
    if name not in _PACKAGES:
        raise VersionError(
            f"{file} holds a model of {name!r}, which this milepost does not know: upgrade it"
        )
    try:
        return importlib.import_module(f"milepost.frameworks.{name}")
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] == "milepost":
            raise
        raise MissingPackageError(
            f"{file} holds a model of {name}, which cannot be imported ({error}): {_PACKAGES[name]}"
        ) from error
