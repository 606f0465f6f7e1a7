"""Models of Hugging Face Transformers: a class of theirs, and its configuration.

Their tensors are a PyTorch module's, and handled there. What a file may name is a class that
Transformers itself has, whose constructor takes a configuration of plain values, or one that
the caller registered or passed. Nothing is downloaded, and no path is recorded.

    {"class": "BertModel", "config": {...}}       or {"custom": "Mine", ...}
    "implementations": {"": ["sdpa", "eager"], "text_config": ...}
    "generation_config": {...}                    of models that generate
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import torch

from milepost.frameworks import torch as ours
from milepost.frameworks.torch import apply, capture, copied, parameter_names, surroundings
from milepost.frameworks.transformers.structure import build, describe
from milepost.program import Program

__all__ = [
    "apply",
    "build",
    "capture",
    "copied",
    "describe",
    "export",
    "handles",
    "hub_files",
    "parameter_names",
    "predict",
    "surroundings",
]


def handles(value: Any) -> bool:
    modeling = sys.modules.get("transformers.modeling_utils")
    return modeling is not None and isinstance(value, modeling.PreTrainedModel)


def predict(model: Any, inputs: Any) -> Any:
    """The outputs of a model in evaluation mode, by name; what is a cache is left out."""
    return _plain(ours.predict(model, inputs))


def export(model: Any, inputs: Any, signature: Mapping[str, Any]) -> Program:
    """What a model computes in evaluation mode, as an ONNX graph; raises as PyTorch's does."""
    return ours.export(model, inputs, signature, outputs=_plain)


def hub_files(structure: Mapping[str, Any]) -> dict[str, bytes]:
    """`config.json`, and the like, as Transformers' own loader wants them."""
    name = structure.get("class", structure.get("custom"))
    files = {"config.json": {**structure["config"], "architectures": [name]}}
    if "generation_config" in structure:
        files["generation_config.json"] = structure["generation_config"]
    return {
        name: json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"
        for name, content in files.items()
    }


def _plain(value: Any) -> Any:
    """Outputs as builtin containers of tensors, without what is None, or a cache."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items() if _is_output(part)}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value if _is_output(part)]
    return value


def _is_output(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_output, value))
    return isinstance(value, torch.Tensor | Mapping | int | float | str)
