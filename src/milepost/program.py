"""Portable programs: what a model computes, for runtimes that know none of its classes.

This is the thing itself, and its JSON. `frameworks/programs.py` and each framework's `export` make
one; `model/portable.py` proves it when a model is saved; `runtimes/` runs it, after a search for
what it must not do; `prediction/` is what people call: `load_program`, and tables in and out.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Program:
    """A model as a portable program, whose weights are leaves of the model.

    Attributes:
        kind: `"onnx"` or `"stablehlo"`.
        data: the program, without the weights.
        weights: what the program calls each of its weights -> the leaf that it is.
        inputs: what it calls the arrays among its inputs, in the order of the signature; plain
            values are part of the program.
        outputs: the same of its outputs.
        tolerance: how far its outputs may be from the framework's, as a share of the largest:
            `save_model` sets it.
    """

    kind: str
    data: bytes
    weights: Mapping[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tolerance: float = 0.0


def encode(program: Program) -> dict[str, Any]:
    """A program as JSON."""
    return {
        "kind": program.kind,
        "weights": dict(program.weights),
        "inputs": program.inputs,
        "outputs": program.outputs,
        "tolerance": program.tolerance,
        "data": base64.b64encode(program.data).decode(),
    }


def decode(encoded: Mapping[str, Any]) -> Program:
    """The program that `encode` wrote; KeyError, TypeError, ValueError if it is none."""
    return Program(
        str(encoded["kind"]),
        base64.b64decode(encoded["data"], validate=True),
        {str(name): str(leaf) for name, leaf in encoded["weights"].items()},
        tuple(map(str, encoded["inputs"])),
        tuple(map(str, encoded["outputs"])),
        float(encoded["tolerance"]),
    )
