"""The structure of a Keras model: out as JSON, and in again from known classes only.

Keras's own serialisation gives the JSON. Before anything is built from it, `check` walks all
of it: a class or function is used only if it is in Keras's fixed list (`known`) or one that
the caller registered or passed, and no path, lambda or foreign module is followed.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
from milepost.errors import (
    DamagedError,
    MilepostError,
    UnknownClassError,
    UnsupportedObjectError,
    UntrustedError,
    UsageError,
)
from milepost.frameworks.base import ModelParts
from milepost.frameworks.keras import assets, known, naming, optimizers
from milepost.frameworks.keras.completion import complete
from milepost.frameworks.keras.proof import prove, refuse_shared_layers
from milepost.state import LeafSpec

# Nodes of Keras's JSON that stand for values rather than objects.
_VALUES = {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"}
_LOOKUPS = {"StringLookup", "IntegerLookup", "TextVectorization"}


def describe(model: keras.Model) -> ModelParts:
    """The structure of a model as JSON, and its assets by name.

    Raises:
        UnsupportedObjectError: a part of it cannot be saved; the message names it.
    """
    if not model.built:
        raise UnsupportedObjectError("the model is not built yet: call it on a batch first")
    refuse_shared_layers(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about lambdas, which are refused below
        try:
            config = keras.saving.serialize_keras_object(model)
            config = json.loads(json.dumps(config, allow_nan=True))
        except (TypeError, ValueError, NotImplementedError) as error:
            raise UnsupportedObjectError(
                f"the model {model.name!r} cannot describe itself: {error}"
            ) from error
    for where, node in _nodes(config, model.name):
        _refuse_code(where, node)
        _make_portable(node)
    if "compile_config" in config and hasattr(model, "_compile_config"):
        complete(model._compile_config.config, config["compile_config"])
    prove(model, config, build)
    structure = {"backend": keras.backend.backend(), "config": config, "needs": _needs(config)}
    optimizer = getattr(model, "optimizer", None)
    undecayed = optimizers.undecayed(optimizer, naming.layer_variables(model, "layers"))
    if undecayed:
        structure["undecayed"] = undecayed
    return ModelParts(structure, assets.collect(model))


def build(
    structure: Mapping[str, Any],
    files: Mapping[str, bytes],
    custom_objects: Mapping[str, Any],
    specs: Mapping[str, LeafSpec] | None = None,
) -> keras.Model:
    """The model that `describe` described, compiled as it was, with initial values.

    Raises:
        UnknownClassError: it needs a class that was neither registered nor passed.
        UntrustedError: it asks for code, or for a path to be opened.
        UsageError: Keras cannot build it; the message has its reason.
    """
    config = copy.deepcopy(structure.get("config"))
    if not isinstance(config, dict):
        raise DamagedError("the structure of the model is missing")
    custom = {**keras.saving.get_custom_objects(), **custom_objects}
    check(config, custom)
    compile_config = config.pop("compile_config", None)
    try:
        model = keras.saving.deserialize_keras_object(config, custom_objects=custom, safe_mode=True)
        assets.restore(model, files)
        if compile_config:
            with keras.saving.custom_object_scope(custom):
                _compile(model, compile_config, same_backend=_same_backend(structure))
            if structure.get("undecayed"):
                variables = naming.layer_variables(model, "layers")
                optimizers.exclude(model.optimizer, structure["undecayed"], variables)
    except MilepostError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(
            f"Keras {keras.__version__} cannot rebuild the model: {error}\nIf it names a class or "
            "a function of yours, pass it in custom_objects"
        ) from error
    return model


def check(config: Any, custom: Mapping[str, Any]) -> None:
    """Make sure that a structure names nothing but known classes.

    What is Keras's own loses its registered name, so that no other class is looked up
    under it: the name that was checked is the name that is used.
    """
    for where, node in _nodes(config, "model"):
        _refuse_code(where, node)
        name, module = node["class_name"], node.get("module")
        if name in _VALUES:
            continue
        if name == "function":
            name = node["config"]
            is_known = known.is_function(module, name)
        else:
            is_known = known.is_class(module, name)
        registered = node.get("registered_name")
        if registered in custom or (not is_known and name in custom):
            continue
        if not is_known:
            raise UnknownClassError(
                f"{where} needs {registered or name!r} (of {module}), which is not Keras's own: "
                f"register it with keras.saving.register_keras_serializable(), or pass "
                f"custom_objects={{{name!r}: ...}}"
            )
        node["registered_name"] = None
        if name in _LOOKUPS and isinstance(node["config"].get("vocabulary"), str):
            raise UntrustedError(f"{where} names a file to be read as its vocabulary")


def _compile(model: keras.Model, config: dict[str, Any], *, same_backend: bool) -> None:
    if not same_backend and "jit_compile" in config:
        config["jit_compile"] = "auto"  # what one backend compiles, another cannot
    if type(model).compile_from_config is not keras.Model.compile_from_config:
        model.compile_from_config(config)
    elif type(model).compile is not keras.Model.compile:
        warnings.warn(
            f"{type(model).__name__} has a compile() of its own and no compile_from_config(): "
            "it was loaded without being compiled",
            stacklevel=4,
        )
    else:
        # Not `compile_from_config`: it builds the optimizer for trainable variables only, and
        # the state of those that were frozen after training would be lost.
        model.compile(**keras.saving.deserialize_keras_object(config, safe_mode=True))


def _same_backend(structure: Mapping[str, Any]) -> bool:
    return bool(structure.get("backend") == keras.backend.backend())


def _nodes(config: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node that names a class, with the names of what it is inside of."""
    if isinstance(config, list):
        for item in config:
            yield from _nodes(item, where)
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
        yield from _nodes(
            item, where if "class_name" in config or key in _UNNAMED else f"{where}.{key}"
        )


def _is_marshalled(node: dict[str, Any]) -> bool:
    value = node.get("value")
    return (
        len(node) == 1 and isinstance(value, list) and len(value) == 3 and isinstance(value[0], str)
    )


_UNNAMED = {"config", "layers", "args", "kwargs", "inbound_nodes"}


def _refuse_code(where: str, node: dict[str, Any]) -> None:
    name = node["class_name"]
    if name in ("__lambda__", "Lambda"):
        raise UntrustedError(
            f"{where} is a lambda: code is neither saved nor loaded. Give it a name: write a "
            "Layer class, or a function, and register it with "
            "keras.saving.register_keras_serializable()"
        )
    if name == "function" and not isinstance(node.get("config"), str):
        raise UntrustedError(f"{where} is a function without a name")


def _make_portable(node: dict[str, Any]) -> None:
    """Undo what only makes sense on the backend and machine that saved."""
    # Keras has optimizers of its own for PyTorch, which no other backend can import.
    if str(node.get("module")).startswith("keras.src.backend.torch.optimizers"):
        node["module"], node["registered_name"] = "keras.optimizers", None
    # Vocabularies are assets, by content; their config may hold a path.
    if node["class_name"] in _LOOKUPS and isinstance(node["config"], dict):
        node["config"]["vocabulary"] = None
        node["config"]["idf_weights"] = None


def _needs(config: Any) -> list[str]:
    """What a program must register or pass before it can load the model."""
    needs = set()
    for _, node in _nodes(config, "model"):
        name, module = node["class_name"], node.get("module")
        if name in _VALUES or known.is_class(module, name):
            continue
        if name == "function" and known.is_function(module, node["config"]):
            continue
        needs.add(
            str(node.get("registered_name") or name) if name != "function" else node["config"]
        )
    return sorted(needs)
