"""Arguments that Keras's own configurations forget.

`keras.losses.Huber(0.5).get_config()` has no `delta` (Keras 3.15), and so a model that is
loaded trains on with another loss. Each object that `compile` was given is therefore made
anew from its configuration and compared; where an argument of the constructor comes out
different, it is put into the configuration.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

from milepost.errors import UnsupportedObjectError
from milepost.frameworks.keras import known
from milepost.state import PLAIN_TYPES

_NOT_ARGUMENTS = {"self", "args", "kwargs", "fn", "name"}
_ABSENT = object()


def complete(live: Any, config: Any) -> None:
    """Add to the JSON of some objects what it forgets of them.

    `live` is an object, or dicts and lists of objects; `config` is its serialised form.

    Raises:
        UnsupportedObjectError: an argument cannot be put back.
    """
    for value, node in _pairs(live, config):
        if not known.is_class(node.get("module"), node["class_name"]):
            continue  # of a class of the user's, get_config is the user's word
        forgotten = dict(_forgotten(value, node["config"]))
        node["config"] |= forgotten
        for argument, _ in _forgotten(value, node["config"]) if forgotten else ():
            raise UnsupportedObjectError(
                f"{type(value).__name__} forgets its argument {argument!r} in get_config(), and "
                "could not be loaded as it is: write a class of your own with a full get_config()"
            )


def _pairs(live: Any, node: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Every object beside its JSON."""
    if isinstance(node, list) and isinstance(live, list | tuple):
        for value, inner in zip(live, node, strict=False):
            yield from _pairs(value, inner)
    elif isinstance(node, dict) and "class_name" in node:
        if isinstance(node.get("config"), dict):
            yield live, node
    elif isinstance(node, dict) and isinstance(live, dict):
        for key, inner in node.items():
            yield from _pairs(live.get(key), inner)


def _forgotten(value: Any, config: dict[str, Any]) -> list[tuple[str, Any]]:
    """The arguments that come out different when an object is made from its configuration."""
    anew = type(value).from_config(copy.deepcopy(config))  # which it may fill with live objects
    found = []
    for name in inspect.signature(type(value).__init__).parameters:
        here = _argument(value, name)
        if name not in _NOT_ARGUMENTS and _is_plain(here) and _argument(anew, name) != here:
            found.append((name, here))
    return found


def _argument(value: Any, name: str) -> Any:
    """What an object remembers of an argument of its constructor."""
    if name == "dtype":
        policy = getattr(value, "_dtype_policy", None)
        return _ABSENT if policy is None else policy.name
    options = getattr(value, "_fn_kwargs", {})
    return options[name] if name in options else vars(value).get(name, _ABSENT)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return isinstance(value, PLAIN_TYPES)
