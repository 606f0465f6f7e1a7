"""A PyTorch module as a portable program: an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from milepost.frameworks.programs import Interface, Leaves, exporting
from milepost.frameworks.torch.predict import call, evaluating, predict
from milepost.program import Program


def export(
    model: nn.Module,
    inputs: Any,
    signature: Mapping[str, Any],
    outputs: Callable[[Any], Any] = lambda made: made,
) -> Program:
    """What a module computes in evaluation mode, as an ONNX graph.

    `outputs` makes builtin containers of what the module returns, if that is something else.

    Raises:
        UnsupportedObjectError: the exporter cannot follow it.
        MissingPackageError: a package is missing that makes such graphs.
    """
    from milepost.frameworks import onnx

    interface = Interface.of(inputs, outputs(predict(model, inputs)))
    with exporting("torch.onnx"), evaluating(model):
        return onnx.from_torch(
            model, lambda given: outputs(call(model, given)), interface, signature, Leaves(model)
        )
