"""What every description of a JAX model goes through: to be built from, and described again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import milepost.frameworks
from milepost.errors import DamagedError, MilepostError, UnsupportedObjectError
from milepost.frameworks.base import ModelParts, capture_objects
from milepost.frameworks.pytrees.writer import Writer
from milepost.state import LeafSpec, join, spec_of

Describe = Callable[[Any, Writer], dict[str, Any]]
Build = Callable[[Mapping[str, Any], Mapping[str, Any], Mapping[str, LeafSpec]], Any]


def described(
    model: Any, new: Callable[[], Writer], describe: Describe, build: Build
) -> ModelParts:
    """The parts of a model, proved: what is built from them has the same description.

    Raises:
        UnsupportedObjectError: it cannot be built again; the message names the part.
    """
    writer, again = new(), new()
    try:
        structure = describe(model, writer)
        specs = _specs(model)
        _refuse_hidden(writer.leaves, specs)
        rebuilt = build(structure, writer.custom, specs)
        problem = _difference(structure, describe(rebuilt, again)) or _leaves(
            specs, _specs(rebuilt)
        )
    except RecursionError:
        raise UnsupportedObjectError("the model is nested too deeply to be saved") from None
    except DamagedError as error:  # a description that even we cannot read
        problem = str(error)
    except MilepostError:
        raise
    except Exception as error:  # whatever the framework and the model's own classes raise
        raise UnsupportedObjectError(
            f"the model cannot be taken apart and built again: {type(error).__name__}: {error}. "
            "Save a Checkpoint of the parts that can"
        ) from error
    if problem:
        raise UnsupportedObjectError(
            f"{problem}, so the model could not be loaded again. Save a Checkpoint, which needs no "
            "structure"
        )
    return ModelParts({**structure, "needs": sorted(writer.custom)}, lost=tuple(writer.lost))


def built(build: Callable[[], Any], package: str) -> Any:
    """What `build` builds from a file, whose structure may be anything at all.

    Raises:
        DamagedError: it is no structure.
    """
    try:
        model = build()
        _specs(model)  # a class of today may not even show its parts without a field
        return model
    except MilepostError:
        raise
    except RecursionError:
        raise DamagedError("the structure of the model is nested too deeply") from None
    except Exception as error:  # whatever constructors and JAX raise
        raise DamagedError(
            f"{package} cannot build the model from its structure: {type(error).__name__}: {error}"
        ) from error


def _refuse_hidden(arrays: set[str], specs: Mapping[str, LeafSpec]) -> None:
    for name in sorted(arrays):
        if name not in specs and join(name, "data") not in specs:  # as a random key has it
            raise UnsupportedObjectError(
                f"{name!r} in the model is an array where the framework expects none, in a static "
                "field or a setting: make it a tuple, or a part of the model's state"
            )


def _specs(model: Any) -> dict[str, LeafSpec]:
    state = capture_objects({"": model}, milepost.frameworks.finder())
    return {name: spec_of(leaf) for name, leaf in state.leaves.items()}


def _leaves(a: Mapping[str, LeafSpec], b: Mapping[str, LeafSpec]) -> str | None:
    for name in (*a, *b):
        if a.get(name) != b.get(name):
            return (
                f"{name!r} is {a.get(name)} in the model, and {b.get(name)} when it is built again"
            )
    return None


def _difference(a: Any, b: Any, path: str = "") -> str | None:
    """Where two descriptions differ first."""
    if type(a) is type(b) is dict and a.keys() == b.keys():
        pairs = [(f"{path}/{key}", a[key], b[key]) for key in a]
    elif type(a) is type(b) is list and len(a) == len(b):
        pairs = [(f"{path}/{i}", x, y) for i, x, y in zip(itertools.count(), a, b, strict=False)]
    elif type(a) is type(b) and a == b:
        return None
    else:
        return f"{path.lstrip('/')} is {a!r:.80} in the model, and {b!r:.80} when it is built again"
    return next(filter(None, (_difference(x, y, at) for at, x, y in pairs)), None)
