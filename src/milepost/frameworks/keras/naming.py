"""Names for the variables of Keras layers that do not depend on how often a layer was made.

Keras numbers automatic names through the life of a process: the first model's `dense` is the
second one's `dense_3`. Here automatic names are numbered anew among siblings, in the order of
Keras's own numbers, which is the order in which the layers were made. So two layers that
swap places keep their names, and names that the user gave stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import keras
from milepost.state import PLAIN_TYPES, join

# What a layer can hold that has variables, and in what.
_PARTS = (keras.Layer, keras.metrics.Metric, keras.random.SeedGenerator)
_COLLECTIONS = (list, dict, tuple)
_PLAIN = frozenset(PLAIN_TYPES)


def stable_names(siblings: Iterable[Any]) -> list[str]:
    """A name for each of some layers or metrics, unique among them."""
    parts = [(sibling.name, _automatic_base(sibling)) for sibling in siblings]
    order = sorted(range(len(parts)), key=lambda i: _number(parts[i][0]))
    names: dict[int, str] = {}
    taken = {name for name, base in parts if base is None}
    for i in order:
        name, base = parts[i]
        names[i] = _unique(base, taken) if base is not None else name
        taken.add(names[i])
    return _without_repeats([names[i] for i in range(len(parts))])


def _automatic_base(sibling: Any) -> str | None:
    """`dense` for a Dense layer called `dense_3`; None for a name that the user chose."""
    base = _snake_case(type(sibling).__name__)
    return base if re.fullmatch(re.escape(base) + r"(_\d+)?", sibling.name) else None


def is_automatic(layer: Any) -> bool:
    """Whether a layer's name is one that Keras made up."""
    return _automatic_base(layer) is not None


def _snake_case(name: str) -> str:
    """As `keras.src.utils.naming.to_snake_case` makes automatic names of classes'."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _number(name: str) -> int:
    match = re.search(r"_(\d+)$", name)
    return int(match[1]) if match else 0


def _unique(base: str, taken: Collection[str]) -> str:
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return name


def _without_repeats(names: list[str]) -> list[str]:
    taken: set[str] = set()
    result = []
    for name in names:
        result.append(_unique(name, taken))
        taken.add(result[-1])
    return result


def layers_by_path(layer: keras.Layer, name: str = "") -> Iterator[tuple[str, Any]]:
    """A layer and every layer inside it, with the way there; one shared by several only once."""
    yield from _walk(layer, name, seen=set())


def _walk(layer: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    seen.add(id(layer))
    yield name, layer
    for key, child in _children(layer, _attribute_paths(layer)):
        if id(child) not in seen:
            yield from _walk(child, join(name, key), seen)


def layer_variables(layer: keras.Layer, name: str) -> dict[str, keras.Variable]:
    """Every variable of a layer and the layers inside it, seeds and metrics too, by name.

    A variable that is reached in two ways has the name of the first.
    """
    found: dict[str, keras.Variable] = {}
    seen: set[int] = set()
    for path, part in layers_by_path(layer, name):
        add_variables(
            [*part._trainable_variables, *part._non_trainable_variables], path, found, seen
        )
        attributes = _attribute_paths(part)
        for generator in part._seed_generators:
            key = attributes.get(id(generator), "seed_generator")
            _add(generator.state, join(path, key), found, seen)
        if isinstance(part, keras.layers.RNN) and part.stateful:  # which tracks none of them
            for index, state in enumerate(keras.tree.flatten(part.states or ())):
                _add(state, join(path, f"states/{index}"), found, seen)
        for metric in part._metrics:
            key = attributes.get(id(metric), metric.name)
            add_variables(metric.variables, join(path, key), found, seen)
    return found


def add_variables(
    variables: Iterable[keras.Variable], name: str, found: dict[str, keras.Variable], seen: set[int]
) -> None:
    """Name variables of one owner by their own names, numbered where these repeat."""
    new = [variable for variable in variables if id(variable) not in seen]
    bases = [re.sub(r"^variable_\d+$", "variable", variable.name) for variable in new]
    for key, variable in zip(_without_repeats(bases), new, strict=True):
        _add(variable, join(name, key), found, seen)


def _add(
    variable: keras.Variable, name: str, found: dict[str, keras.Variable], seen: set[int]
) -> None:
    if id(variable) not in seen:
        seen.add(id(variable))
        found[_unique(name, found)] = variable


def _children(layer: Any, attributes: dict[int, str]) -> Iterator[tuple[str, Any]]:
    """The layers directly inside a layer, with the key of each.

    In a Sequential or functional model that is the layer's name; in one that was written as
    a class, the attribute that holds it.
    """
    children: list[Any] = []
    if isinstance(layer, keras.Sequential) or hasattr(layer, "_nodes_by_depth"):
        children = list(layer.layers)
    named = list(zip(stable_names(children), children, strict=True))
    listed = {id(child) for child in children}
    inner = getattr(layer, "_functional", None)  # the same layers once more
    rest = [child for child in layer._layers if id(child) not in listed and child is not inner]
    hidden = [child for child in rest if id(child) not in attributes]
    fallback = dict(zip(map(id, hidden), stable_names(hidden), strict=True))
    yield from named
    for child in rest:
        yield attributes.get(id(child)) or fallback[id(child)], child


def _attribute_paths(layer: Any) -> dict[int, str]:
    """The id of what a layer's attributes hold -> the shortest way there (`blocks/0`)."""
    paths: dict[int, str] = {}
    # On the PyTorch backend a layer is a torch module, which keeps its children aside.
    attributes = {**vars(layer), **vars(layer).get("_modules", {})}
    found = [
        (attribute.startswith("_"), attribute)
        for attribute, value in attributes.items()
        if type(value) not in _PLAIN  # most of them, which are ruled out soonest so
        and (
            isinstance(value, _PARTS)
            # A list under a private name is one of Keras's own, of everything.
            or (isinstance(value, _COLLECTIONS) and not attribute.startswith("_"))
        )
    ]
    for _, attribute in sorted(found):
        for path, value in _contents(attribute.strip("_"), attributes[attribute]):
            paths.setdefault(id(value), path)
    return paths


def _contents(path: str, value: Any, depth: int = 4) -> Iterator[tuple[str, Any]]:
    if isinstance(value, _PARTS):
        yield path, value
    elif depth and isinstance(value, dict):
        for key, item in value.items():
            yield from _contents(join(path, str(key)), item, depth - 1)
    elif depth and isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _contents(join(path, str(index)), item, depth - 1)
