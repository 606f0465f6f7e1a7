"""Proof, when a Keras model is saved, that its own configuration brings all of it back."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from milepost.errors import UnknownClassError, UnsupportedObjectError
from milepost.frameworks.keras import blank
from milepost.frameworks.keras.loss import is_foreign, lost_attributes
from milepost.frameworks.keras.naming import layer_variables, layers_by_path
from milepost.state import join

_CHECKPOINT = "or save it as Checkpoint(model=model).save(path), and build it by code"


def refuse_shared_layers(model: keras.Model) -> None:
    """Refuse a layer with variables that two of Keras's own models or wrappers list.

    Each of the two has it in its configuration, and would come back with one of its own.

    Raises:
        UnsupportedObjectError: there is one; the message names it and both places.
    """
    parents: dict[int, str] = {}
    for where, parent in _own_containers(model, model.name, set()):
        for child in _children(parent):
            first = parents.setdefault(id(child), where)
            if first != where and child.variables:
                raise UnsupportedObjectError(
                    f"the layer {child.name!r} is part of both {first} and {where}, and Keras's "
                    "configuration would make two layers of it: let one of them use the other "
                    f"as a whole, {_CHECKPOINT}"
                )


def _own_containers(layer: Any, where: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """The models and wrappers that Keras itself serialises; a class of the user's is its word."""
    if id(layer) in seen or not type(layer).__module__.startswith("keras.src."):
        return
    seen.add(id(layer))
    yield where, layer
    for child in _children(layer):
        yield from _own_containers(child, join(where, child.name), seen)


def _children(layer: Any) -> list[Any]:
    inner = getattr(layer, "_functional", None)  # a Sequential's layers once more
    return [child for child in layer._layers if child is not inner]


def prove(
    model: keras.Model,
    variables: Mapping[str, keras.Variable],
    structure: dict[str, Any],
    build: Callable[..., keras.Model],
) -> tuple[str, ...]:
    """Build a model again from its structure, and compare the names of its `variables`.

    Returns what it has and the model built again has not, a sentence each.

    Raises:
        UnsupportedObjectError: it could not be loaded; the message has the reason.
    """
    # Without values at first, which costs no memory. Some layers need values to be made.
    try:
        return _prove(model, variables, structure, build, blank.without_values())
    except UnsupportedObjectError:
        return _prove(model, variables, structure, build, contextlib.nullcontext())


def _prove(
    model: keras.Model,
    variables: Mapping[str, keras.Variable],
    structure: dict[str, Any],
    build: Callable[..., keras.Model],
    scope: contextlib.AbstractContextManager[Any],
) -> tuple[str, ...]:
    classes = {type(layer).__name__: type(layer) for _, layer in layers_by_path(model)}
    custom = {name: kind for name, kind in classes.items() if is_foreign(kind)}
    config = {k: v for k, v in structure["config"].items() if k != "compile_config"}
    bare = {"config": config, "changes": structure["changes"]}
    try:
        with scope, _names_unused(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the program had them when it built the model
            again = build(bare, {}, custom)
    except UnknownClassError:
        return ()  # a function or an initializer, which the program has and we cannot find
    except Exception as error:  # a constructor of the user's may raise anything
        raise UnsupportedObjectError(
            f"the model {model.name!r} could not be loaded again: {error}"
        ) from error
    expected, found = _specs(variables), _specs(layer_variables(again, "layers"))
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if wrong:
        raise UnsupportedObjectError(
            f"the model {model.name!r} could not be loaded again. Built from its configuration, "
            f"{wrong[0]} is {found.get(wrong[0], 'missing')} and not "
            f"{expected.get(wrong[0], 'missing')} ({len(wrong)} such): make every layer's "
            f"variables in __init__() and build(), and tell all arguments in get_config(); "
            f"{_CHECKPOINT}"
        )
    return tuple(lost_attributes(model, again))


def _specs(variables: Mapping[str, keras.Variable]) -> dict[str, str]:
    return {name: f"{v.dtype}{list(v.shape)}" for name, v in variables.items()}


@contextlib.contextmanager
def _names_unused() -> Iterator[None]:
    """Automatic names that are given out inside are given out again after."""
    from keras.src.backend.common import global_state

    names = dict(global_state.get_global_attribute("object_name_uids") or {})
    try:
        yield
    finally:
        counters = global_state.get_global_attribute("object_name_uids")
        if counters is not None:
            counters.clear()
            counters.update(names)
