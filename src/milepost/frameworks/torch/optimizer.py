"""PyTorch optimizers: state keyed by the parameter's name, not by its position.

PyTorch's own `state_dict` numbers parameters, so freezing or reordering some makes others
take their state. Here a parameter has the name that it has in the module saved beside the
optimizer. One that no module of the checkpoint has is called by its position, `#3`.
"""

from __future__ import annotations

from typing import Any

import torch

from milepost.frameworks.base import Capture, Saved
from milepost.state import Rule, join
from milepost.tree import Structure, children


def capture(optimizer: torch.optim.Optimizer, name: str, capture: Capture) -> Structure:
    names = _parameter_names(optimizer, capture.parameter_names())
    standard = optimizer.state_dict()
    state_name, groups_name = join(name, "state"), join(name, "param_groups")
    states = []
    for index, parameter in enumerate(names):
        # Also where there is none yet: so a restore to before the first step clears it.
        state = standard["state"].get(index, {})
        states.append([parameter, capture.replaced(join(state_name, parameter), state)])
    capture.rule(state_name, Rule(0))
    groups = []
    for number, group in enumerate(_ordered_groups(standard["param_groups"], names)):
        child = join(groups_name, str(number))
        members = "\n".join(_members(group, names))
        groups.append(capture.child(child, {**group, "params": members}))
        # Other versions of PyTorch have a few more options, or a few less.
        capture.rule(child, Rule.GROWS | Rule.KEEPS)
        capture.rule(join(child, "params"), Rule.FIXED)
    capture.rule(groups_name, Rule(0))
    return {"dict": [["state", {"dict": states}], ["param_groups", {"list": groups}]]}


def apply(optimizer: torch.optim.Optimizer, name: str, node: Structure, saved: Saved) -> Any:
    names = _parameter_names(optimizer, saved.parameter_names())
    nodes = dict(children(node))
    standard = optimizer.state_dict()
    state_name, groups_name = join(name, "state"), join(name, "param_groups")
    saved_states = dict(children(nodes.get("state")))
    for index, parameter in enumerate(names):
        child, child_node = join(state_name, parameter), saved_states.get(parameter)
        if child_node is not None and saved.can_build(child, child_node) and saved.selects(child):
            standard["state"][index] = saved.build(child, child_node)
    saved_groups = dict(children(nodes.get("param_groups")))
    for number, group in enumerate(_ordered_groups(standard["param_groups"], names)):
        child, child_node = join(groups_name, str(number)), saved_groups.get(number)
        for key, option_node in children(child_node):
            option = join(child, str(key))
            if key != "params" and saved.can_build(option, option_node):
                group[str(key)] = saved.build(option, option_node)
    optimizer.load_state_dict(standard)
    _undo_casts(optimizer, standard["state"])
    return optimizer


def _undo_casts(optimizer: torch.optim.Optimizer, states: dict[int, Any]) -> None:
    """`load_state_dict` casts state to its parameter's dtype; exact means: as it was saved."""
    for index, parameter in enumerate(_parameters(optimizer)):
        for key, value in states.get(index, {}).items():
            if isinstance(value, torch.Tensor):
                loaded = optimizer.state[parameter][key]
                if loaded.dtype != value.dtype:
                    optimizer.state[parameter][key] = value.to(loaded.device)


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _parameter_names(optimizer: torch.optim.Optimizer, known: dict[int, str]) -> list[str]:
    """The name of each parameter, in the order in which PyTorch numbers them."""
    return [known.get(id(p), f"#{index}") for index, p in enumerate(_parameters(optimizer))]


def _members(group: dict[str, Any], names: list[str]) -> list[str]:
    return sorted(names[index] for index in group["params"])


def _ordered_groups(groups: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """The groups in the order of their members' names, so that their own order does not count."""
    return sorted(groups, key=lambda group: _members(group, names))
