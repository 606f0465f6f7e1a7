"""The structure of a Keras model: out as JSON, and in again from known classes only.

Keras's own serialisation gives the JSON; `trusted` checks all of it before anything is built.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping
from typing import Any

import keras
from milepost import registry
from milepost.errors import (
    DamagedError,
    MilepostError,
    UnsupportedObjectError,
    UntrustedError,
    UsageError,
)
from milepost.frameworks.base import ModelParts
from milepost.frameworks.keras import (
    assets,
    blank,
    layouts,
    naming,
    optimizers,
    sequential,
    tensors,
    trusted,
)
from milepost.frameworks.keras.changes import changes, make_changes
from milepost.frameworks.keras.completion import complete
from milepost.frameworks.keras.loss import lost_compilation, lost_history, lost_slots
from milepost.frameworks.keras.proof import prove, refuse_shared_layers
from milepost.state import LeafSpec

TORCH_OPTIMIZERS = "keras.src.backend.torch.optimizers"


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
    for where, node in trusted.nodes(config, model.name):
        trusted.refuse_code(where, node)
        _refuse_wrappers(where, node)
        _make_portable(node)
    if "compile_config" in config and hasattr(model, "_compile_config"):
        complete(model._compile_config.config, config["compile_config"])
    structure = {
        "backend": keras.backend.backend(),
        "config": config,
        "needs": _needs(config),
        "changes": changes(model),
    }
    variables = naming.layer_variables(model, "layers")
    optional = {
        "layouts": layouts.layouts(variables),
        "undecayed": optimizers.undecayed(getattr(model, "optimizer", None), variables),
    }
    structure |= {key: notes for key, notes in optional.items() if notes}
    lost = (
        *lost_history(model),
        *lost_compilation(model),
        *lost_slots(model, {id(variable) for variable in variables.values()}),
        *prove(model, variables, structure, build),
    )
    return ModelParts(structure, assets.collect(model), lost)


def build(
    structure: Mapping[str, Any],
    files: Mapping[str, bytes],
    custom_objects: Any,
    specs: Mapping[str, LeafSpec] | None = None,
) -> keras.Model:
    """The model that `describe` described, compiled as it was, with initial values.

    `specs` are the leaves that it will be given: nothing much larger is built.

    Raises:
        UnknownClassError: it needs a class that was neither registered nor passed.
        UntrustedError: it asks for code, for a path to be opened, or for absurd amounts.
        UsageError: Keras cannot build it; the message has its reason.
    """
    try:
        config, made = copy.deepcopy((structure.get("config"), structure.get("changes")))
    except RecursionError:
        raise UntrustedError("the structure is nested too deeply to be a model's") from None
    if not isinstance(config, dict):
        raise DamagedError("the structure of the model is missing")
    custom = {**keras.saving.get_custom_objects(), **custom_objects}
    vouched = getattr(custom_objects, "trust", False)  # a dict vouches for nothing
    trusted.check([config, made], custom, custom_objects.imported if vouched else None)
    compile_config = config.pop("compile_config", None)
    sequential.replace(trusted.nodes(config, "model"), custom)
    try:
        with keras.saving.custom_object_scope(custom):
            model = _model(config, custom, specs)
            if not model.built:
                model.build(None)  # it has no variables, and took any input
            if made is not None:
                make_changes(model, made)
            assets.restore(model, files)
            variables = naming.layer_variables(model, "layers")
            layouts.lay(variables, structure.get("layouts", {}))
            if compile_config:
                _compile(model, compile_config, same_backend=_same_backend(structure))
                optimizers.exclude(model.optimizer, structure.get("undecayed", {}), variables)
    except MilepostError:
        raise
    except Exception as error:  # a constructor, of Keras or the user's, may raise anything
        raise UsageError(
            f"Keras {keras.__version__} cannot rebuild the model: {error}\nIf it names a class or "
            "a function of yours, pass it in custom_objects"
        ) from error
    return model


def _model(
    config: dict[str, Any], custom: dict[str, Any], specs: Mapping[str, LeafSpec] | None
) -> keras.Model:
    def make(config: dict[str, Any]) -> keras.Model:
        return keras.saving.deserialize_keras_object(config, custom_objects=custom, safe_mode=True)

    if specs is None:
        return make(config)
    try:
        with blank.without_values(specs) as variables:
            model = make(copy.deepcopy(config))  # which may be changed
    except MilepostError:
        raise
    except Exception:
        # The states of recurrent layers need values, and so may a class of the user's.
        stateless = trusted.without_states(config)
        if stateless == config and not _needs(config):
            raise
        if not _needs(config):
            with blank.without_values(specs):
                make(stateless)
        return make(config)
    with tensors.untouched_zeros():
        blank.give_values(model, variables, specs)
    return model


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


def _refuse_wrappers(where: str, node: dict[str, Any]) -> None:
    name, module = node["class_name"], str(node.get("module"))
    if name in trusted.VALUES or name == "function" or _is_portable(node):
        return
    if f"{module}.".startswith("keras."):
        raise UnsupportedObjectError(
            f"{where} is a {module}.{name}, which runs code, reads paths, or is newer than this "
            "milepost: save the model inside of it, or write a Layer class of your own"
        )


def _is_portable(node: dict[str, Any]) -> bool:
    return trusted.is_known(node) or str(node.get("module")).startswith(TORCH_OPTIMIZERS)


def _make_portable(node: dict[str, Any]) -> None:
    """Undo what only makes sense on the backend and machine that saved."""
    # Keras has optimizers of its own for PyTorch, which no other backend can import.
    if str(node.get("module")).startswith(TORCH_OPTIMIZERS):
        node["module"], node["registered_name"] = "keras.optimizers", None
    # Vocabularies are assets, by content; their config may hold a path.
    if node["class_name"] in trusted.LOOKUPS and isinstance(node["config"], dict):
        node["config"]["vocabulary"] = None
        node["config"]["idf_weights"] = None
    if node["class_name"] == "RandomShear":
        # Keras 3.15 writes a factor as the range that it refuses to read.
        for factor in ("x_factor", "y_factor"):
            low, high = node["config"][factor]
            node["config"][factor] = high if low == -high else [low, high]
    if not trusted.is_known(node) and node["class_name"] != "function":
        node["registered_name"] = _registered(node) or node.get("registered_name")


def _registered(node: dict[str, Any]) -> str | None:
    """The name under which `milepost.register` knows the class of a node."""
    home = (node.get("module"), node["class_name"])
    for name, thing in registry.registered().items():
        if home == (getattr(thing, "__module__", None), getattr(thing, "__name__", None)):
            return name
    return None


def _needs(config: Any) -> list[str]:
    """What a program must register or pass before it can load the model."""
    needs = set()
    for _, node in trusted.nodes(config, "model"):
        name = node["class_name"]
        if name in trusted.VALUES or trusted.is_known(node):
            continue
        needs.add(
            str(node.get("registered_name") or name) if name != "function" else node["config"]
        )
    return sorted(needs)
