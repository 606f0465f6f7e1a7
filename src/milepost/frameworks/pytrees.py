"""One level of a JAX pytree: what the modules for JAX, Flax and Equinox share."""

from __future__ import annotations

from typing import Any

import jax


def is_node(value: Any) -> bool:
    """Whether JAX knows the class of `value` as a pytree container."""
    structure: Any = jax.tree_util.tree_structure(value, is_leaf=lambda part: part is not value)
    return not jax.tree_util.treedef_is_leaf(structure) or structure.num_leaves == 0


def node_items(value: Any) -> list[tuple[str, Any]]:
    """The (key, part) pairs directly below a registered node."""
    paths, _ = jax.tree_util.tree_flatten_with_path(value, is_leaf=lambda part: part is not value)
    return [(_key_text(path), part) for path, part in paths]


def _key_text(path: tuple[Any, ...]) -> str:
    """One step of a key path as text, without the punctuation of `jax.tree_util.keystr`."""
    [key] = path
    for attribute in ("name", "key", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def rebuilt(value: Any, parts: list[Any]) -> Any:
    """A container like `value` with other parts; `value` itself if they are the same."""
    if all(new is old for new, (_, old) in zip(parts, node_items(value), strict=True)):
        return value
    structure = jax.tree_util.tree_structure(value, is_leaf=lambda part: part is not value)
    return jax.tree_util.tree_unflatten(structure, parts)
