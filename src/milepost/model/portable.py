"""Making a model's portable program, and proving that it predicts what the model does."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from milepost import frameworks, runtimes
from milepost.dtypes import Array
from milepost.errors import (
    DamagedError,
    DifferentPredictionError,
    UnsupportedObjectError,
    UntrustedError,
    UsageError,
)
from milepost.formats.example import INPUTS, OUTPUTS, Example
from milepost.frameworks.base import capture_objects
from milepost.model.example import Replay, compare, make_example, rebuilt
from milepost.program import Program


def export(
    framework: Any, model: Any, inputs: Any, signature: dict[str, Any], example: Example
) -> Program:
    """A model's program, which predicts on the example what the model does.

    Raises:
        UnsupportedObjectError: the model cannot be made a program, or not a faithful one.
        MissingPackageError: a package is missing that makes it, or runs it.
    """
    if not hasattr(framework, "export"):
        raise UsageError(f"program=True is not known for models of {framework.__name__}")
    made: Program = framework.export(model, inputs, signature)
    program = dataclasses.replace(made, tolerance=example.tolerance)
    leaves = capture_objects({"": model}, frameworks.finder()).leaves
    weights = {name: np.asarray(leaves[leaf]) for name, leaf in program.weights.items()}
    other = _other(framework, model, signature, example)
    try:
        run = runtimes.load(program, weights, "this model")
        replay(run, program, example, "the model's program")
        if other is not None:
            replay(run, program, other, "the model's program, with other inputs,")
    except (DamagedError, DifferentPredictionError, UntrustedError, UsageError) as error:
        if isinstance(error, ImportError):
            raise
        raise UnsupportedObjectError(
            f"the model cannot be made a program that is faithful: {error}\n"
            "Save it without program=True, or with a larger tolerance= if that will do"
        ) from error
    return program


def replay(run: runtimes.Run, program: Program, example: Example, name: str) -> Replay:
    """Run a program on the example, and compare.

    Raises:
        DifferentPredictionError: its outputs are further off than its tolerance.
    """
    outputs = iter(run(_arrays(example)))
    found = {
        leaf: next(outputs) if isinstance(value, np.ndarray) else value
        for leaf, value in example.arrays(OUTPUTS)
    }
    expected = dataclasses.replace(example, tolerance=program.tolerance)
    return compare(expected, found, name, f"run as {program.kind}")


def _other(
    framework: Any, model: Any, signature: dict[str, Any], example: Example
) -> Example | None:
    """Other numbers, and one more row where there may be, with what the model makes of them.

    What an exporter took for a constant shows with them. None if the model will not have them.
    """
    names = [name for name, _ in example.arrays(INPUTS)]
    shapes = dict(zip(names, (entry["shape"] for entry in signature["inputs"]), strict=True))
    changed = {}
    for name, value in example.arrays(INPUTS):
        if isinstance(value, np.ndarray):
            other = value if value.dtype.kind in "biu" else (value / 2).astype(value.dtype)
            grows = shapes[name][:1] == [None]
            changed[name] = np.concatenate([other, value[:1]]) if grows else other
    try:
        inputs = rebuilt(dataclasses.replace(example, leaves={**example.leaves, **changed}), INPUTS)
        return make_example(framework, model, inputs, example.tolerance)
    except Exception:  # whatever a model raises that takes some numbers only
        return None


def _arrays(example: Example) -> list[Array]:
    return [value for _, value in example.arrays(INPUTS) if isinstance(value, np.ndarray)]
