"""The structure in HDF5 files of whole models, as Keras 3 writes it in its own files.

There a class is named without its module: that is put in where exactly one of Keras's own
has the name. What is none of Keras's is looked up by its name among what was registered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from milepost.errors import UntrustedError
from milepost.frameworks.keras import known, trusted

_DEEPEST = 200
# Where a name is looked up, in this order: a layer before an operation of its name.
_LAYERS = ("keras.layers", "keras", "keras.models", "keras.src.models.functional")
_OF_COMPILING = {
    "optimizer": ("keras.optimizers",),
    "loss": ("keras.losses",),
    "metrics": ("keras.metrics", "keras.losses"),
    "weighted_metrics": ("keras.metrics", "keras.losses"),
}
_KEPT = ("run_eagerly", "steps_per_execution", "jit_compile", "loss_weights")


def modern(config: Mapping[str, Any], training: Mapping[str, Any] | None) -> dict[str, Any]:
    """The structure of a model, and how it was compiled, in today's form."""
    found: dict[str, Any] = _with_modules(config, _LAYERS)
    if training is not None:
        told = {**training, "optimizer": training.get("optimizer_config")}
        found["compile_config"] = {
            key: _with_modules(told.get(key), modules) for key, modules in _OF_COMPILING.items()
        } | {key: told[key] for key in _KEPT if key in told}
    return found


def _with_modules(node: Any, modules: tuple[str, ...], depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise UntrustedError(f"the structure is nested more than {_DEEPEST} levels deep")
    if isinstance(node, list):
        return [_with_modules(item, modules, depth + 1) for item in node]
    if not isinstance(node, dict):
        return node
    found = {key: _with_modules(item, modules, depth + 1) for key, item in node.items()}
    name = found.get("class_name")
    if name == "function" and known.is_function(found.get("module"), found.get("config")):
        return found["config"]  # by a module that it is not in, where Keras 3.15 wrote it
    bare = isinstance(name, str) and "module" not in found and name not in trusted.VALUES
    if bare and "config" in found:
        found["module"] = next(
            (m for m in (*modules, *_others()) if (m, name) in known.CLASSES), None
        )
        found["registered_name"] = None if found["module"] else name
        _repair(found["config"], name)
    return found


def _others() -> list[str]:
    return sorted({module for module, _ in known.CLASSES})


def _repair(config: Any, name: Any) -> None:
    """What Keras 2 called by other names, as Keras 3 itself repairs it."""
    if not isinstance(config, dict):
        return
    if "batch_input_shape" in config:
        shape = config.pop("batch_input_shape")
        if name == "InputLayer":
            config.setdefault("batch_shape", shape)
    axis = config.get("axis")
    if isinstance(axis, list) and len(axis) == 1:
        config["axis"] = axis[0]
