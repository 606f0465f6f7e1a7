"""Keras optimizers: each slot under the name of the variable that it belongs to.

Keras keeps slots in lists by position, so freezing a layer shifts them. Here the momentum of
`layers/dense/kernel` is `layers/dense/kernel/momentum`, whatever the position.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import keras
from milepost.frameworks.keras.naming import add_variables
from milepost.state import join

Optimizer: Any = keras.optimizers.Optimizer


def optimizer_variables(
    optimizer: Any, name: str, names: Mapping[int, str], *, strangers: bool = True
) -> dict[str, keras.Variable]:
    """Every variable of an optimizer and of those it wraps, by name.

    `names` are those of the models' variables, by id; a stranger, which is not among them, is
    called by its position, `#3`, or its slots are left out.
    """
    found: dict[str, keras.Variable] = {}
    gone = [] if strangers else stranger_slots(optimizer, names)
    _collect(optimizer, name, names, found, seen=set(map(id, gone)))
    return found


def stranger_slots(optimizer: Any, names: Collection[int]) -> list[keras.Variable]:
    """The slots of variables that are not the models', or no longer: quantised since, say."""
    models = list(getattr(optimizer, "_trainable_variables", ()))
    owned = set(map(id, optimizer._variables))
    found = [
        slot
        for index, variable in enumerate(models)
        if id(variable) not in names
        for _, slot in _slots_at(optimizer, index, len(models))
        if id(slot) in owned
    ]
    for _, inner in inner_optimizers(optimizer):
        found += stranger_slots(inner, names)
    return found


def _collect(
    optimizer: Any,
    name: str,
    names: Mapping[int, str],
    found: dict[str, keras.Variable],
    seen: set[int],
) -> None:
    owned = {id(variable): variable for variable in optimizer._variables}
    models = list(getattr(optimizer, "_trainable_variables", ()))
    slots = {}
    for index, variable in enumerate(models):
        owner = names.get(id(variable), f"#{index}")
        for attribute, slot in _slots_at(optimizer, index, len(models)):
            if id(slot) in owned and id(slot) not in seen:
                seen.add(id(slot))
                slots[join(name, join(owner, _slot_name(attribute, slot, variable)))] = slot
    add_variables([v for v in owned.values() if id(v) not in seen], name, found, seen)
    found |= slots
    for key, inner in inner_optimizers(optimizer):
        _collect(inner, join(name, key), names, found, seen)


def _slots_at(optimizer: Any, index: int, count: int) -> list[tuple[str, Any]]:
    """What an optimizer's lists with one entry for each variable hold for one of them."""
    return [
        (attribute, value[index])
        for attribute, value in vars(optimizer).items()
        if isinstance(value, list)
        and len(value) == count
        and attribute not in ("_variables", "_trainable_variables")
    ]


def _slot_name(attribute: str, slot: keras.Variable, variable: keras.Variable) -> str:
    """`momentum` for the slot `sequential_dense_kernel_momentum`; else the attribute's name."""
    prefix = variable.path.replace("/", "_") + "_"
    name = str(slot.name)
    if name.startswith(prefix):
        return name.removeprefix(prefix)
    return attribute.strip("_")


def inner_optimizers(optimizer: Any) -> list[tuple[str, Any]]:
    """The optimizers that an optimizer holds, with the attribute of each."""
    found = []
    for attribute, value in vars(optimizer).items():
        if isinstance(value, Optimizer):
            found.append((attribute.strip("_"), value))
        elif isinstance(value, list):
            inner = [(i, item) for i, item in enumerate(value) if isinstance(item, Optimizer)]
            found += [(join(attribute.strip("_"), str(i)), item) for i, item in inner]
    return found


def build_like(
    optimizer: Any,
    name: str,
    saved_names: set[str],
    variables: Mapping[str, keras.Variable],
) -> None:
    """Build an optimizer for those variables whose slots a snapshot has.

    So that state is found again for a variable that was frozen after it was trained. It must
    also know those that training overwrites, the scales of float8 layers, which have no slots.
    `variables` are the models' trainable and frozen variables by name.
    """
    if optimizer.built:
        return
    # A slot's name is `<optimizer>[/<inner>]/<variable>/<slot>`.
    owners = {other.rpartition("/")[0] for other in saved_names if other.startswith(f"{name}/")}
    with_slots = {
        key for key in variables if any(o == key or o.endswith(f"/{key}") for o in owners)
    }
    if with_slots:
        optimizer.build(
            [v for key, v in variables.items() if key in with_slots or v.overwrite_with_gradient]
        )


def undecayed(
    optimizer: Any, variables: Mapping[str, keras.Variable], name: str = ""
) -> dict[str, list[str]]:
    """What `exclude_from_weight_decay` excluded, which no configuration has.

    Each optimizer (`""`, and `inner_optimizer` for one that it wraps) -> names of variables.
    Names and not the pattern that was given: a pattern out of a file could take for ever.
    """
    found = {}
    if getattr(optimizer, "_exclude_from_weight_decay_pattern", None) or getattr(
        optimizer, "_exclude_from_weight_decay", None
    ):
        found[name] = [k for k, v in variables.items() if not optimizer._use_weight_decay(v)]
    for key, inner in inner_optimizers(optimizer) if optimizer is not None else ():
        found |= undecayed(inner, variables, join(name, key))
    return found


def exclude(
    optimizer: Any,
    excluded: Mapping[str, list[str]],
    variables: Mapping[str, keras.Variable],
    name: str = "",
) -> None:
    """Exclude from weight decay what `undecayed` told."""
    if name in excluded:
        optimizer.exclude_from_weight_decay([variables[key] for key in excluded[name]])
    for key, inner in inner_optimizers(optimizer):
        exclude(inner, excluded, variables, join(name, key))
