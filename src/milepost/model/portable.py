"""Making a model's portable program, and proving that it predicts what the model does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
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
from milepost.model.comparison import Replay, compare
from milepost.model.example import make_example, rebuilt
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
    others = list(_others(framework, model, signature, example))
    try:
        run = runtimes.load(program, weights, "this model")
        replay(run, program, example, "the model's program")
        for other in others:
            _check_plain(example, other)
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


def _others(
    framework: Any, model: Any, signature: dict[str, Any], example: Example
) -> Iterator[Example]:
    """Other inputs, with what the model makes of them: what an exporter took for a constant shows.

    They have other numbers and one more row, where there may be, and then a single row. Those
    that the model does not take are left out.
    """
    names = [name for name, _ in example.arrays(INPUTS)]
    shapes = dict(zip(names, (entry["shape"] for entry in signature["inputs"]), strict=True))
    more, one = {}, {}
    for name, value in example.arrays(INPUTS):
        if isinstance(value, np.ndarray):
            grows = shapes[name][:1] == [None]
            other = value if value.dtype.kind in "biu" else (value / 2).astype(value.dtype)
            more[name] = np.concatenate([other[::-1], value[:1]]) if grows else other
            one[name] = other[-1:] if grows else other
    for changed in (more, one):
        given = dataclasses.replace(example, leaves={**example.leaves, **changed})
        try:
            yield make_example(framework, model, rebuilt(given, INPUTS), example.tolerance)
        except Exception:  # whatever a model raises that takes some numbers only
            continue


def _check_plain(example: Example, other: Example) -> None:
    """Make sure that outputs that are no arrays are always the same: a program has them fixed."""
    before, after = dict(example.arrays(OUTPUTS)), dict(other.arrays(OUTPUTS))
    if before.keys() != after.keys():
        raise UsageError("how many outputs it has depends on the inputs")
    for name, value in before.items():
        if not isinstance(value, np.ndarray) and value != after[name]:
            raise UsageError(
                f"{name} is {value!r:.40} with some inputs and {after[name]!r:.40} with others, "
                "and a program computes arrays only: return it as one"
            )


def _arrays(example: Example) -> list[Array]:
    return [value for _, value in example.arrays(INPUTS) if isinstance(value, np.ndarray)]
