"""One level of a JAX pytree: what the modules for JAX, Flax and Equinox share."""

from __future__ import annotations

from typing import Any

import jax
import jax.experimental
from jax.tree_util import Partial

from milepost.state import join

# The builtin collections that a model may have among its settings.
SEQUENCES: dict[str, type[Any]] = {
    "tuple": tuple,
    "list": list,
    "set": set,
    "frozenset": frozenset,
}

# Before 0.8 it was an experiment.
_config: Any = jax if hasattr(jax, "enable_x64") else jax.experimental


def enable_x64(enable: bool = True) -> Any:
    """A context in which arrays may have 64 bits, whether the program lets them or not."""
    return _config.enable_x64(enable)


def is_node(value: Any) -> bool:
    """Whether JAX knows the class of `value` as a pytree container."""
    structure: Any = jax.tree_util.tree_structure(value, is_leaf=lambda part: part is not value)
    return not jax.tree_util.treedef_is_leaf(structure) or structure.num_leaves == 0


def node_items(value: Any) -> list[tuple[str, Any]]:
    """The (key, part) pairs directly below a registered node."""
    if type(value) is Partial:  # JAX itself has only numbers for these
        return [("args", value.args), ("keywords", value.keywords)]
    paths, _ = jax.tree_util.tree_flatten_with_path(value, is_leaf=lambda part: part is not value)
    return [(key_text(path[0]), part) for path, part in paths]


def named_leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """The leaves of a pytree, in JAX's order, by the names that they have in a state."""
    if not is_node(value):
        return [(name, value)]
    below = [named_leaves(part, join(name, key)) for key, part in node_items(value)]
    return [leaf for leaves in below for leaf in leaves]


def key_text(key: Any) -> str:
    """One step of a key path as text, without the punctuation of `jax.tree_util.keystr`."""
    for attribute in ("name", "key", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def struct(shape: Any, dtype: Any, *, weak: bool = False) -> Any:
    """An array without a value."""
    make: Any = jax.ShapeDtypeStruct
    return make(shape, dtype, weak_type=weak)


def rebuilt(value: Any, parts: list[Any]) -> Any:
    """A container like `value` with other parts; `value` itself if they are the same."""
    if all(new is old for new, (_, old) in zip(parts, node_items(value), strict=True)):
        return value
    structure = jax.tree_util.tree_structure(value, is_leaf=lambda part: part is not value)
    return jax.tree_util.tree_unflatten(structure, parts)


def called(path: str) -> str:
    """What messages call a part of a model."""
    return f"{path!r} in the model" if path else "the model"
