"""One level of a JAX pytree: what the modules for JAX, Flax and Equinox share."""

from __future__ import annotations

from typing import Any

import jax

# The builtin sequences that a model may have among its settings.
SEQUENCES: dict[str, type[Any]] = {"tuple": tuple, "list": list}


def is_node(value: Any) -> bool:
    """Whether JAX knows the class of `value` as a pytree container."""
    structure: Any = jax.tree_util.tree_structure(value, is_leaf=lambda part: part is not value)
    return not jax.tree_util.treedef_is_leaf(structure) or structure.num_leaves == 0


def node_items(value: Any) -> list[tuple[str, Any]]:
    """The (key, part) pairs directly below a registered node."""
    paths, _ = jax.tree_util.tree_flatten_with_path(value, is_leaf=lambda part: part is not value)
    return [(key_text(path[0]), part) for path, part in paths]


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
