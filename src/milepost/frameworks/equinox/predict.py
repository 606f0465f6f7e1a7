"""What an Equinox module makes of an example, and as a program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox

from milepost.frameworks.pytrees import program
from milepost.frameworks.pytrees.predict import call, surroundings
from milepost.program import Program

__all__ = ["export", "predict", "surroundings"]


def predict(model: equinox.Module, inputs: Any) -> Any:
    """The outputs of a module that does not train; like the module, it takes no batches."""
    return call(_inference(model), inputs)


def export(model: equinox.Module, inputs: Any, signature: Mapping[str, Any]) -> Program:
    """The module, not training, as a StableHLO program."""
    return program.export(
        program.named_arrays(model),
        lambda arrays: _inference(program.with_arrays(model, arrays)),
        inputs,
        signature,
    )


def _inference(model: Any) -> Any:
    return equinox.nn.inference_mode(model)
