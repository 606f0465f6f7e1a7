"""Where Keras's own files keep each variable of a live model.

Keras names a variable by the way to its layer, through attributes and lists, and its number
there (`layers/dense_1/vars/0`). The model is walked as Keras walks it when it saves, and each
part is asked to save itself, into a mapping that keeps the variables instead of their values.

https://github.com/keras-team/keras/blob/master/keras/src/saving/saving_lib.py
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from milepost.errors import DamagedError, UntrustedError, UsageError
from milepost.state import join

_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_Assets = Mapping[str, Callable[[], bytes]]


def variable_paths(model: keras.Model) -> dict[int, str]:
    """The id of every variable -> its leaf in a file of Keras 3."""
    found: dict[int, str] = {}
    for path, part in _parts(model):
        if not hasattr(part, "save_own_variables"):
            continue
        kept: dict[str, Any] = {}
        if isinstance(part, keras.optimizers.Optimizer):  # which saves their values
            kept = {str(index): variable for index, variable in enumerate(part.variables)}
        else:
            part.save_own_variables(kept)
        for key, value in kept.items():
            found.setdefault(id(value), join(path, f"vars/{key}"))
    return found


def restore_assets(model: keras.Model, assets: _Assets) -> None:
    """Give every layer the files that Keras kept for it.

    Raises:
        UntrustedError: a file's name could lead out of its folder.
    """
    for path, part in _parts(model):
        own = {name: read for name, read in assets.items() if os.path.dirname(name) == path}
        if not own or not hasattr(part, "load_assets"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            for name, read in own.items():
                base = name.rpartition("/")[2]
                if not _FILE.fullmatch(base) or ".." in base:
                    raise UntrustedError(f"the asset {name!r:.80} has a name that could be a path")
                with open(os.path.join(folder, base), "wb") as file:
                    file.write(read())
            try:
                part.load_assets(folder)
            except Exception as error:  # a layer, of Keras or the user's, may raise anything
                raise DamagedError(
                    f"the assets of {path or 'the model'} cannot be loaded: {error}"
                ) from error


def _parts(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """Everything that Keras saves of a model, with the way there; each but once."""
    yield from _walk(model, "", set())


def _walk(part: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    from keras.src.saving.keras_saveable import KerasSaveable
    from keras.src.saving.saving_lib import _walk_saveable

    if id(part) in seen:
        return
    seen.add(id(part))
    yield path, part
    for attribute, child in _walk_saveable(part):
        if isinstance(child, KerasSaveable):
            yield from _walk(child, join(path, attribute), seen)
        elif isinstance(child, list | dict | tuple):
            yield from _walk_container(child, join(path, attribute), seen, set())


def _walk_container(
    container: Any, path: str, seen: set[int], containers: set[int]
) -> Iterator[tuple[str, Any]]:
    """The parts in a list, each called by its class, and numbered where that repeats."""
    from keras.src.saving.keras_saveable import KerasSaveable
    from keras.src.utils.naming import to_snake_case

    if id(container) in containers:
        return
    containers.add(id(container))
    used: dict[str, int] = {}
    for child in container.values() if isinstance(container, dict) else container:
        if isinstance(child, KerasSaveable):
            name = _numbered(to_snake_case(type(child).__name__), used)
            yield from _walk(child, join(path, name), seen)
        elif isinstance(child, list | dict | tuple):
            name = _numbered("container", used)
            yield from _walk_container(child, join(path, name), seen, containers)


def _numbered(name: str, used: dict[str, int]) -> str:
    used[name] = used.get(name, -1) + 1
    return f"{name}_{used[name]}" if used[name] else name


def legacy_variable_paths(
    model: keras.Model, attributes: Mapping[str, Mapping[str, Any]], file: str
) -> dict[int, str]:
    """The same in a file of the old layout, which has the order of layers and their weights.

    Raises:
        UsageError: it has other layers, or other weights of one; the message names the first.
    """
    group = "model_weights"
    saved = [
        (name, weights)
        for name in _names(attributes, group, "layer_names")
        if (weights := _names(attributes, join(group, name), "weight_names"))
    ]
    layers = [
        (layer.name, weights)
        for layer in model.layers
        if (weights := layer.trainable_weights + layer.non_trainable_weights)
    ]
    top = [*model._trainable_variables, *model._non_trainable_variables]
    pairs = list(zip(saved, layers, strict=False))
    if len(saved) != len(layers):
        raise UsageError(
            f"{file} has weights of {len(saved)} layers, and its structure makes {len(layers)}"
        )
    found: dict[int, str] = {}
    last = "top_level_model_weights"
    pairs.append(((last, _names(attributes, join(group, last), "weight_names")), (model.name, top)))
    for (name, names), (layer, variables) in pairs:
        if len(names) != len(variables):
            raise UsageError(
                f"{file} has {len(names)} weights of the layer {name!r}, and its structure makes "
                f"{len(variables)} for {layer!r}"
            )
        for weight, variable in zip(names, variables, strict=True):
            found[id(variable)] = join(join(group, name), weight)
    slots = _names(attributes, "optimizer_weights", "weight_names")
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and len(slots) == len(optimizer.variables):
        for slot, variable in zip(slots, optimizer.variables, strict=True):
            found[id(variable)] = join("optimizer_weights", slot)
    return found


def _names(attributes: Mapping[str, Mapping[str, Any]], path: str, key: str) -> list[str]:
    """A list of names, which lies in several attributes if it is long."""
    own = attributes.get(path, {})
    if key in own:
        return [name for name in own[key] or () if isinstance(name, str)]
    found: list[str] = []
    number = 0
    while f"{key}{number}" in own:
        found += [name for name in own[f"{key}{number}"] if isinstance(name, str)]
        number += 1
    return found
