"""What a structure may name: every node of Keras's JSON is walked and checked before it is used.

A class or function is used only if it is in Keras's fixed list (`known`) or one that the
caller registered or passed, and no path, lambda or foreign module is followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from milepost.errors import UnknownClassError, UntrustedError
from milepost.frameworks.keras import known

# Nodes of Keras's JSON that stand for values rather than objects.
VALUES = {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"}
LOOKUPS = {"StringLookup", "IntegerLookup", "TextVectorization"}

_UNNAMED = {"config", "layers", "args", "kwargs", "inbound_nodes"}
_DEEPEST = 200

# Arguments by whose size Keras allocates memory, or works, without making a variable.
_LARGEST = 1 << 20
_SIZES = {
    "chain_depth",
    "fft_length",
    "frame_length",
    "n",
    "num_bins",
    "num_chains",
    "num_classes",
    "num_labels",
    "num_mel_bins",
    "num_ops",
    "num_thresholds",
    "output_size",
    "power_iterations",
    "sequence_length",
}
_ONLY_HASHES = {"Hashing", "HashedCrossing"}

# Classes that match names with patterns out of their configuration. A group that repeats can
# take for ever over a short name; without one, no pattern does.
_MATCH = {"DTypePolicyMap", "OptimizerMap", "Muon"}
_REPEATED_GROUP = re.compile(r"\)[*+{]")


def check(config: Any, custom: dict[str, Any], imported: Any = None) -> None:
    """Make sure that a structure names nothing but known classes.

    What is Keras's own loses its registered name, so that no other class is looked up
    under it: the name that was checked is the name that is used. `imported(module, name)`
    brings in what is unknown, if the caller vouches for the file.

    Raises:
        UnknownClassError: it names something else.
        UntrustedError: it asks for code, for a path to be opened, or for absurd amounts.
    """
    for where, node in nodes(config, "model"):
        refuse_code(where, node)
        name, module = node["class_name"], node.get("module")
        if not isinstance(name, str):
            raise UnknownClassError(f"{where} has the class name {name!r:.80}")
        if name in VALUES:
            continue
        if is_known(node):
            node["registered_name"] = None
            _refuse_paths_and_giants(where, node)
            continue
        if name == "function":
            name = node["config"]
        registered = node.get("registered_name")
        if _names(registered, custom):
            continue
        if name not in custom:
            if imported is None or not isinstance(module, str):
                raise UnknownClassError(_unknown(where, name, module, registered))
            custom[name] = imported(module, name)
        node["registered_name"] = name


def _names(registered: Any, custom: Mapping[str, Any]) -> bool:
    return isinstance(registered, str) and registered in custom


def is_known(node: Mapping[str, Any]) -> bool:
    """Whether a node names one of Keras's own."""
    name, module = node["class_name"], node.get("module")
    if name == "function":
        return known.is_function(module, node["config"])
    return known.is_class(module, name)


def _unknown(where: str, name: str, module: Any, registered: Any) -> str:
    return (
        f"{where} needs {registered or name!r} (of {module}), which is not in the list of Keras's "
        "own classes: register it with keras.saving.register_keras_serializable() or "
        f"milepost.register, or pass custom_objects={{{name!r}: ...}}"
    )


def _refuse_paths_and_giants(where: str, node: Mapping[str, Any]) -> None:
    name, config = node["class_name"], node.get("config")
    if not isinstance(config, dict):
        return
    if name in LOOKUPS and isinstance(config.get("vocabulary"), str):
        raise UntrustedError(f"{where} names a file to be read as its vocabulary")
    if name in _MATCH and any(_REPEATED_GROUP.search(text) for text in _texts(config)):
        raise UntrustedError(f"{where} has a pattern that repeats a group, which may take for ever")
    for argument in _SIZES & config.keys() if name not in _ONLY_HASHES else ():
        sizes = config[argument] if isinstance(config[argument], list) else [config[argument]]
        if any(isinstance(size, int | float) and size > _LARGEST for size in sizes):
            raise UntrustedError(f"{where} asks for {argument}={config[argument]!r:.80}")


def _texts(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    elif isinstance(config, dict | list):
        for item in [*config, *config.values()] if isinstance(config, dict) else config:
            yield from _texts(item)


def nodes(config: Any, where: str, depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node that names a class, with the names of what it is inside of."""
    if depth > _DEEPEST:
        raise UntrustedError(f"{where[:200]} is nested more than {_DEEPEST} levels deep")
    if isinstance(config, list):
        for item in config:
            yield from nodes(item, where, depth + 1)
    if not isinstance(config, dict):
        return
    if _is_marshalled(config):
        # Keras writes a lambda given as activation without saying that it is one.
        yield where, {"class_name": "__lambda__"}
    if "class_name" in config:
        inner = config.get("config")
        own = inner.get("name") if isinstance(inner, dict) else None
        where = f"{where}/{own}" if isinstance(own, str) and own != where else where
        yield where, config
    for key, item in config.items():
        inside = where if "class_name" in config or key in _UNNAMED else f"{where}.{key}"
        yield from nodes(item, inside, depth + 1)


def without_states(config: Any) -> Any:
    """A structure whose recurrent layers keep no state from batch to batch."""
    if isinstance(config, list):
        return [without_states(item) for item in config]
    if isinstance(config, dict):
        return {k: k != "stateful" and without_states(item) for k, item in config.items()}
    return config


def _is_marshalled(node: dict[str, Any]) -> bool:
    value = node.get("value")
    return (
        len(node) == 1 and isinstance(value, list) and len(value) == 3 and isinstance(value[0], str)
    )


def refuse_code(where: str, node: dict[str, Any]) -> None:
    """Refuse lambdas, which bring code of their own.

    Raises:
        UntrustedError: it is one.
    """
    name = node["class_name"]
    if name in ("__lambda__", "Lambda"):
        raise UntrustedError(
            f"{where} is a lambda: code is neither saved nor loaded. Give it a name: write a "
            "Layer class, or a function, and register it with "
            "keras.saving.register_keras_serializable()"
        )
    if name == "function" and not isinstance(node.get("config"), str):
        raise UntrustedError(f"{where} is a function without a name")
