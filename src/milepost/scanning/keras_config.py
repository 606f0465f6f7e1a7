"""Code in a Keras model's configuration: Lambda layers, marshalled functions, modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from milepost.scanning.report import Finding, Severity

# The classes that run what the file brings along, or load what it names.
_CODE = {
    "Lambda": "a Lambda layer runs code of the file",
    "__lambda__": "marshalled Python code",
    "TorchModuleWrapper": "unpickles a PyTorch module of the file",
    "TFSMLayer": "loads a SavedModel from a path of the file's choice",
    "__torch_module__": "unpickles a PyTorch module of the file",
}
_OWN = (
    "keras",
    "keras_hub",
    "keras_nlp",
    "keras_cv",
    "keras_tuner",
    "tensorflow.keras",
    "tf_keras",
)
_DEEPEST = 200


def scan_config(config: Any, where: str, path: str = "", depth: int = 0) -> Iterator[Finding]:
    """What of a configuration, as it comes from JSON, could run code when the model is loaded."""
    if depth > _DEEPEST:
        yield Finding(Severity.UNREADABLE, where, path, "a configuration nested too deeply")
    elif isinstance(config, list):
        for index, item in enumerate(config):
            yield from scan_config(item, where, f"{path}/{index}", depth + 1)
    elif isinstance(config, dict):
        yield from _scan_object(config, where, path)
        for key, item in config.items():
            yield from scan_config(item, where, f"{path}/{key}", depth + 1)


def _scan_object(config: dict[str, Any], where: str, path: str) -> Iterator[Finding]:
    name, module = config.get("class_name"), config.get("module")
    called = f"{name} at {path or '/'}"
    if isinstance(name, str) and name.rpartition(">")[2] in _CODE:
        yield Finding(Severity.DANGEROUS, where, called, _CODE[name.rpartition(">")[2]])
        return
    if "function_type" in config and config["function_type"] == "lambda":
        yield Finding(Severity.DANGEROUS, where, path or "/", _CODE["__lambda__"])
    if isinstance(module, str) and module and not _is_own(module):
        yield Finding(
            Severity.SUSPICIOUS, where, f"{module}.{name} at {path or '/'}", "imports this module"
        )
    elif isinstance(name, str) and config.get("registered_name") not in (None, name, "function"):
        why = "needs a class of somebody's own, by this registered name"
        yield Finding(Severity.NOTE, where, f"{config['registered_name']} at {path or '/'}", why)


def _is_own(module: str) -> bool:
    return any(module == own or module.startswith(f"{own}.") for own in _OWN)
