"""PyTorch optimizers: state keyed by the parameter's name, not by its position.

PyTorch's own `state_dict` numbers parameters, so freezing or reordering some makes others
take their state. Here a parameter has the name that it has in the module saved beside the
optimizer. One that no module of the checkpoint has is called by its position, `#3`.
"""

from __future__ import annotations

import collections
import copy
import functools
from typing import Any

import torch

from milepost.errors import UnsupportedObjectError
from milepost.frameworks.base import Capture, Saved
from milepost.frameworks.torch.place import place
from milepost.state import Rule, join
from milepost.tree import Structure, build, children, encode_key, key_text

# Of a group: where it stands among the others. Schedulers know groups by that alone.
_POSITION = "#position"
# What the program gave the parameters for names; older checkpoints hold it.
_LABELS = "param_names"
# State that belongs to no parameter, under a name of its own beside that of the parameters.
_OTHER = "other_state"


def capture(optimizer: torch.optim.Optimizer, name: str, capture: Capture) -> Structure:
    names = _parameter_names(optimizer, capture.parameter_names())
    if any(parameter.is_meta for parameter in _parameters(optimizer)):
        raise UnsupportedObjectError(
            f"{name} holds parameters on the meta device, whose state has no values: make the "
            'module real first, by module.to_empty(device="cpu"), and the optimizer after that'
        )
    standard = optimizer.state_dict()
    other = {key: standard["state"][key] for key in _other_keys(standard, names)}
    return {
        "dict": [
            ["state", _capture_states(optimizer, standard, join(name, "state"), names, capture)],
            ["param_groups", _capture_groups(standard, join(name, "param_groups"), names, capture)],
            [_OTHER, capture.opaque(join(name, _OTHER), other)],
            *(
                [encode_key(key), capture.opaque(join(name, key_text(key)), standard[key])]
                for key in _own_keys(standard)
            ),
        ]
    }


def _capture_states(
    optimizer: torch.optim.Optimizer,
    standard: dict[str, Any],
    name: str,
    names: list[str],
    capture: Capture,
) -> Structure:
    nodes, late = [], _takes_tensors(optimizer)
    for index, parameter in enumerate(names):
        # Also where there is none yet: so a restore to before the first step clears it.
        state = standard["state"].get(index, {})
        nodes.append([parameter, capture.replaced(join(name, parameter), state, late=late)])
    capture.rule(name, Rule(0))
    return {"dict": nodes}


def _capture_groups(
    standard: dict[str, Any], name: str, names: list[str], capture: Capture
) -> Structure:
    groups = standard["param_groups"]
    nodes = []
    for number, position in enumerate(_group_order(groups, names)):
        child, group = join(name, str(number)), groups[position]
        options = {key: value for key, value in group.items() if key != _LABELS}
        options["params"] = "\n".join(_members(group, names))
        if len(groups) > 1:
            options[_POSITION] = position
        nodes.append(capture.child(child, options))
        # Other versions of PyTorch have a few more options, or a few less.
        capture.rule(child, Rule.GROWS | Rule.KEEPS)
        capture.rule(join(child, "params"), Rule.FIXED)
        capture.rule(join(child, _POSITION), Rule.FIXED)
        capture.rule(join(child, _LABELS), Rule.IGNORES)
    capture.rule(name, Rule(0))
    return {"list": nodes}


def apply(optimizer: torch.optim.Optimizer, name: str, node: Structure, saved: Saved) -> Any:
    names = _parameter_names(optimizer, saved.parameter_names())
    nodes = dict(children(node))
    standard = optimizer.state_dict()
    _apply_states(standard, join(name, "state"), nodes.get("state"), names, saved)
    _apply_groups(standard, join(name, "param_groups"), nodes.get("param_groups"), names, saved)
    if _is_restored(join(name, _OTHER), nodes.get(_OTHER), saved):
        for key in _other_keys(standard, names):
            del standard["state"][key]
        standard["state"].update(saved.build(join(name, _OTHER), nodes[_OTHER]))
    for key in _own_keys(standard):
        child = join(name, key_text(key))
        if key in nodes and saved.can_build(child, nodes[key]) and saved.selects(child):
            standard[key] = saved.build(child, nodes[key])
    saved.at_once(functools.partial(_load, optimizer), standard, _before(optimizer))
    return optimizer


def _load(optimizer: torch.optim.Optimizer, standard: dict[str, Any]) -> None:
    optimizer.load_state_dict(standard)
    _undo_casts(optimizer, standard["state"])


def _before(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What to go back to. PyTorch puts new tensors in place of its own and changes none of them."""
    standard = optimizer.state_dict()
    return standard | {key: copy.deepcopy(standard[key]) for key in _own_keys(standard)}


def _apply_states(
    standard: dict[str, Any], name: str, node: Structure, names: list[str], saved: Saved
) -> None:
    nodes = dict(children(node))
    for index, parameter in enumerate(names):
        child = join(name, parameter)
        if _is_restored(child, nodes.get(parameter), saved):
            before = standard["state"].get(index, {})
            standard["state"][index] = _state(child, nodes[parameter], before, saved)


def _state(name: str, node: Structure, before: Any, saved: Saved) -> Any:
    """The state of one parameter; a tensor that can be changed where it is stays."""
    tensors = {join(name, key_text(key)): tensor for key, tensor in before.items()}

    def leaf(child: str, part: Structure) -> Any:
        tensor = tensors.get(child)
        if not saved.is_late(child) or not isinstance(tensor, torch.Tensor):
            return saved.value(child, part)
        place(saved, child, tensor)
        return tensor

    return build(node, name, leaf)


def _takes_tensors(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `load_state_dict` puts the tensors that it is given in place, and copies none."""
    hooks = (
        optimizer._optimizer_load_state_dict_pre_hooks,
        optimizer._optimizer_load_state_dict_post_hooks,
    )
    return type(optimizer).__module__.startswith("torch.optim.") and not any(hooks)


def _apply_groups(
    standard: dict[str, Any], name: str, node: Structure, names: list[str], saved: Saved
) -> None:
    nodes, groups = dict(children(node)), standard["param_groups"]
    for number, position in enumerate(_group_order(groups, names)):
        child, group = join(name, str(number)), groups[position]
        for key, option_node in children(nodes.get(number)):
            option = join(child, str(key))
            if key not in ("params", _POSITION, _LABELS) and saved.can_build(option, option_node):
                group[str(key)] = _beside(group.get(key), saved.build(option, option_node))


def _is_restored(name: str, node: Structure, saved: Saved) -> bool:
    return node is not None and saved.can_build(name, node) and saved.selects(name)


def _beside(old: Any, new: Any) -> Any:
    """An option where the old one was: `load_state_dict` moves state to its device, not these."""
    both = isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor)
    return new.to(old.device) if both else new


def _undo_casts(optimizer: torch.optim.Optimizer, states: dict[Any, Any]) -> None:
    """`load_state_dict` casts state to its parameter's dtype; exact means: as it was saved."""
    for index, parameter in enumerate(_parameters(optimizer)):
        if index in states and parameter in optimizer.state:
            optimizer.state[parameter] = _uncast(optimizer.state[parameter], states[index])


def _uncast(loaded: Any, saved: Any) -> Any:
    """What `load_state_dict` made of `saved`, in the dtypes of `saved`."""
    if isinstance(saved, torch.Tensor) and isinstance(loaded, torch.Tensor):
        return loaded if loaded.dtype == saved.dtype else saved.to(loaded.device)
    if isinstance(saved, dict) and isinstance(loaded, dict):
        return {key: _uncast(value, saved.get(key)) for key, value in loaded.items()}
    if isinstance(saved, list | tuple | collections.deque) and type(loaded) is type(saved):
        return type(saved)(map(_uncast, loaded, saved))
    # PyTorch takes a string for a sequence, and puts another in its place.
    return saved if isinstance(saved, str) else loaded


def _own_keys(standard: dict[str, Any]) -> list[Any]:
    """What a class with a `state_dict` of its own has put there."""
    return [key for key in standard if key not in ("state", "param_groups")]


def _other_keys(standard: dict[str, Any], names: list[str]) -> list[Any]:
    """The keys of state that is of no parameter."""
    return [key for key in standard["state"] if key not in range(len(names))]


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _parameter_names(optimizer: torch.optim.Optimizer, known: dict[int, str]) -> list[str]:
    """The name of each parameter, in the order in which PyTorch numbers them."""
    return [known.get(id(p), f"#{index}") for index, p in enumerate(_parameters(optimizer))]


def _members(group: dict[str, Any], names: list[str]) -> list[str]:
    return sorted(names[index] for index in group["params"])


def _group_order(groups: list[dict[str, Any]], names: list[str]) -> list[int]:
    """The groups' positions, in the order of their members' names."""
    return sorted(range(len(groups)), key=lambda position: _members(groups[position], names))
