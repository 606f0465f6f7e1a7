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
_OWN = ("tensorflow.keras", "tf_keras", "keras")
_OTHERS = frozenset({"keras_hub", "keras_nlp", "keras_cv", "keras_tuner"})
# The parts of Keras that models are made of. By others a file downloads, loads or sets something:
# `keras.utils.get_file`, `keras.config.enable_unsafe_deserialization`.
_PARTS = frozenset(
    """
    activations constraints dtype_policies engine initializers layers losses metrics models ops
    optimizers quantizers random regularizers mixed_precision
    """.split()  # noqa: SIM905
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
    if isinstance(module, str) and module:
        yield from _scan_module(module, name, config, where, path)
    elif isinstance(name, str) and config.get("registered_name") not in (None, name, "function"):
        why = "needs a class of somebody's own, by this registered name"
        yield Finding(Severity.NOTE, where, f"{config['registered_name']} at {path or '/'}", why)


def _scan_module(
    module: str, name: object, config: dict[str, Any], where: str, path: str
) -> Iterator[Finding]:
    if name == "function":
        name = config.get("config")
        if module == "builtins":  # so Keras calls functions that are handed to it as objects
            why = "needs a function of somebody's own, or of Keras's, by this name"
            yield Finding(Severity.NOTE, where, f"{name} at {path or '/'}", why)
            return
    called = f"{module}.{name} at {path or '/'}"
    part = _part(module)
    if part is None:
        yield Finding(Severity.SUSPICIOUS, where, called, "imports this module")
    elif not isinstance(name, str) or not name.isidentifier() or not _is_for_models(part, name):
        why = "is no part of a model: Keras calls it when the model is loaded"
        yield Finding(Severity.SUSPICIOUS, where, called, why)


def _part(module: str) -> list[str] | None:
    """Where in Keras a module is; None if it is none of Keras's."""
    if module.partition(".")[0] in _OTHERS:
        return ["layers"]
    for own in _OWN:
        if module == own or module.startswith(f"{own}."):
            return [p for p in module[len(own) :].split(".") if p not in ("", "src", "api", "_v2")]
    return None


def _is_for_models(part: list[str], name: str) -> bool:
    # `keras.Model`, and not `keras.models.load_model`.
    if not part or part[0] in ("models", "engine"):
        return name[:1].isupper()
    return part[0] in _PARTS
