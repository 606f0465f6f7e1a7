"""`load_model`: a whole model out of a file of milepost's, or of Keras's own."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from milepost.checkpoint.restore import Restore
from milepost.errors import (
    MissingPackageError,
    RestoreRefusedError,
    UnknownClassError,
    UsageError,
    VersionError,
)
from milepost.formats import model_file
from milepost.formats.keras_config import KerasSnapshot
from milepost.formats.safetensors import ModelSnapshot
from milepost.model.comparison import Replay, predict_again
from milepost.model.foreign import load_keras
from milepost.model.names import Names
from milepost.model.opened import open_loadable, open_model
from milepost.model.randomness import unchanged_random_state
from milepost.opening import Path
from milepost.snapshot import Snapshot

# The frameworks that rebuild models; each is also the name of its package.
_FRAMEWORKS = ("keras", "torch", "transformers", "flax", "equinox", "jax")


def load_model(
    path: Path,
    *,
    custom_objects: Mapping[str, Any] | None = None,
    replay: bool | str = False,
    trust: bool = False,
) -> Any:
    """Load a whole model, as it was saved: ready to predict, or to train on.

    The file is one of `save_model`, or one that Keras wrote: `.keras`, or HDF5 with a whole
    model in it. A Keras model loads on any backend. No code of the file is run:
    its structure names classes, and these must be the framework's own, or registered, or
    passed here.

    Arguments:
        path: the file.
        custom_objects: name -> class or function, for those that are not the framework's.
        replay: predict on the file's example and compare: to the last bit on the framework,
            version and device that saved it, elsewhere within the file's tolerance.
            `"close"` grants the tolerance everywhere.
        trust: also import the classes that the file names, from the modules that it names:
            only for a file of your own, because importing runs code.

    Raises:
        PathNotFoundError: there is no such file.
        UnknownFormatError: it is something else.
        UnknownClassError: it needs a class that is not known; the message has its name.
        UntrustedError: it asks for code, for a path to be opened, or for absurd amounts.
        RestoreRefusedError: a class makes other variables than it did when it was saved.
        DamagedError: its bytes are not what was saved.
        MissingPackageError: the framework is not installed.
        DifferentPredictionError: `replay` found other predictions than those in the file.
        UsageError: `replay` of a file without an example.
    """
    if replay not in (True, False, "close"):
        raise UsageError(f"replay must be True, False or 'close': found {replay!r}")
    names = Names(custom_objects or {}, trust=trust)
    with open_loadable(path) as snapshot:
        if isinstance(snapshot, KerasSnapshot):
            if replay:
                raise UsageError(_no_example(snapshot))
            return load_keras(snapshot, names)
        framework, model = _loaded(snapshot, names)
        if replay:
            _replayed(framework, model, snapshot, close=replay == "close")
        return model


def replay(
    path: Path,
    *,
    custom_objects: Mapping[str, Any] | None = None,
    close: bool = False,
    trust: bool = False,
) -> Replay:
    """Load a model, predict on the example of its file, and tell how far off that is.

    Takes what `load_model` takes, and raises as it does with `replay=True`.
    """
    with open_model(path) as snapshot:
        framework, model = _loaded(snapshot, Names(custom_objects or {}, trust=trust))
        return _replayed(framework, model, snapshot, close=close)


def _loaded(snapshot: ModelSnapshot, names: Names) -> tuple[Any, Any]:
    """A file's framework, and its model."""
    try:
        framework = _framework(snapshot)
        return framework, _build(framework, snapshot, names)
    except (UnknownClassError, MissingPackageError) as error:
        raise type(error)(f"{error}{_ways_out(snapshot)}") from error.__cause__


def _replayed(framework: Any, model: Any, snapshot: ModelSnapshot, *, close: bool) -> Replay:
    document = snapshot.document
    if document.example is None:
        raise UsageError(_no_example(snapshot))
    with unchanged_random_state():
        return predict_again(
            framework, model, document.example, document.versions, snapshot.name, close=close
        )


def _no_example(snapshot: Snapshot) -> str:
    return f"{snapshot.name} has no example to replay: save it with save_model(..., example=x)"


def _ways_out(snapshot: ModelSnapshot) -> str:
    needs = ", ".join(map(str, snapshot.document.structure.get("needs", ())))
    text = f"\nThe file needs: {needs}" if needs else ""
    if snapshot.document.program is not None:
        text += (
            "\nIt also holds a program, which predicts without any class: "
            f"milepost.load_program({snapshot.name!r}), or `milepost predict`"
        )
    return text


def _build(framework: Any, snapshot: ModelSnapshot, custom_objects: Mapping[str, Any]) -> Any:
    document = snapshot.document
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
    return restore.run(fresh=True)[""]


class _WithoutAssets(Snapshot):
    """The leaves of a model file that are the model's state."""

    def __init__(self, whole: ModelSnapshot) -> None:
        records = {
            name: whole.record(name) for name in whole if not name.startswith(model_file.ASSETS)
        }
        super().__init__(whole.name, records, whole._files, whole.description)


def _bytes(snapshot: Snapshot, name: str) -> bytes:
    return np.asarray(snapshot.read(name)).tobytes()


def _framework(snapshot: ModelSnapshot) -> Any:
    """Our module for a file's framework, which imports that: it is what was asked for.

    Raises:
        VersionError: a later milepost wrote the file.
        MissingPackageError: the framework is not installed.
    """
    name, file = snapshot.document.framework, snapshot.name
    if name not in _FRAMEWORKS:
        raise VersionError(
            f"{file} holds a model of {name!r}, which this milepost does not know: upgrade it"
        )
    try:
        return importlib.import_module(f"milepost.frameworks.{name}")
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] == "milepost":
            raise
        raise MissingPackageError(
            f"{file} holds a model of {name}, which cannot be imported ({error}): "
            f"pip install {name}"
        ) from error
