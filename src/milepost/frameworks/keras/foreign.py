"""Models out of Keras's own files: their structure, and where their weights are."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

import keras
from milepost.dtypes import Array
from milepost.errors import DamagedError
from milepost.frameworks.keras import VariableLeaf, _variables, naming, tensors, trusted
from milepost.frameworks.keras.files import (
    legacy_variable_paths,
    restore_assets,
    variable_paths,
)
from milepost.frameworks.keras.old_structure import modern
from milepost.frameworks.keras.structure import TORCH_OPTIMIZERS
from milepost.frameworks.keras.structure import build as build_structure
from milepost.state import LeafSpec

_LEGACY = "legacy"
_OPTIMIZERS = ("optimizer", "optimizer_weights")  # what the leaves of one are below


def build(structure: Any, custom_objects: Any, specs: Mapping[str, LeafSpec]) -> keras.Model:
    """The model that a file describes, compiled, with initial values and its assets.

    `structure` is a `KerasStructure`; raises what `structure.build` does.
    """
    config = structure.config
    if structure.layout == _LEGACY:
        config = modern(config, structure.training)
    list(trusted.nodes(config, "model"))  # which refuses what is nested too deeply to be copied
    config = copy.deepcopy(config)
    for _, node in trusted.nodes(config, "model"):
        # Keras has optimizers of its own for PyTorch, which no other backend can import.
        if str(node.get("module")).startswith(TORCH_OPTIMIZERS):
            node["module"], node["registered_name"] = "keras.optimizers", None
    backend = structure.backend or keras.backend.backend()
    model = build_structure({"config": config, "backend": backend}, {}, custom_objects, specs)
    if not isinstance(model, keras.Model):
        raise DamagedError(f"the file describes a {type(model).__name__}, and no model")
    restore_assets(model, structure.assets)
    optimizer = getattr(model, "optimizer", None)
    slots = sum(name.partition("/")[0] in _OPTIMIZERS for name in specs)
    # One that never trained has a rate and a counter, and no slots.
    if optimizer is not None and not optimizer.built and slots > len(optimizer.variables):
        with tensors.untouched_zeros():
            optimizer.build(model.trainable_variables)
    return model


def sources(model: keras.Model, snapshot: Any) -> tuple[dict[str, str], dict[str, Array]]:
    """The leaf of the file for each leaf of the model; and values of what no such file has.

    These are the seeds of random layers, which Keras does not save, and begin anew; and the
    state of an optimizer, if the file has none of it.
    """
    structure = snapshot.structure
    if structure.layout == _LEGACY:
        paths = legacy_variable_paths(model, snapshot.attributes, snapshot.name)
    else:
        paths = variable_paths(model)
    seeds = {id(generator.state) for generator in _generators(model)}
    of_optimizer = set(map(id, getattr(getattr(model, "optimizer", None), "variables", ())))
    trained = any(name.partition("/")[0] in _OPTIMIZERS for name in snapshot)
    found: dict[str, str] = {}
    kept: dict[str, Array] = {}
    for name, variable in _variables(model, "", {}).items():
        path = paths.get(id(variable))
        if path in snapshot:
            found[name] = str(path)
        elif id(variable) in seeds or (id(variable) in of_optimizer and not trained):
            kept[name] = np.asarray(VariableLeaf(name, variable))
    return found, kept


def target_specs(model: keras.Model) -> dict[str, str]:
    """The dtype of each leaf of a model."""
    return {n: VariableLeaf(n, v).dtype.name for n, v in _variables(model, "", {}).items()}


def _generators(model: keras.Model) -> list[Any]:
    return [g for _, layer in naming.layers_by_path(model) for g in layer._seed_generators]
