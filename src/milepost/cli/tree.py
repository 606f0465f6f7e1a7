"""Names with slashes as a tree: folders, each with what is below it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

# What follows in a deeper name stays together, so that no name can exhaust the memory.
_MOST_DEPTH = 32


@dataclass(slots=True)
class Node:
    """A leaf, a folder, or both.

    Attributes:
        leaf: the full name of the leaf that is here, if there is one.
        count: how many leaves there are, here and below.
        nbytes: their size.
    """

    leaf: str | None = None
    count: int = 0
    nbytes: int = 0
    children: dict[str, Node] = field(default_factory=dict)


def tree(sizes: Mapping[str, int]) -> Node:
    """The tree of leaves whose names and sizes these are."""
    root = Node()
    for name, nbytes in sizes.items():
        node = root
        _add(node, nbytes)
        for part in name.split("/", _MOST_DEPTH):
            node = node.children.setdefault(part, Node())
            _add(node, nbytes)
        node.leaf = name
    return root


def _add(node: Node, nbytes: int) -> None:
    node.count += 1
    node.nbytes += nbytes


def rows(node: Node, depth: int = 0) -> Iterator[tuple[str, Node]]:
    """Every node below one, with its indented label. A folder of one folder shares its row."""
    for part, child in node.children.items():
        label = part
        while child.leaf is None and len(child.children) == 1:
            [(below, only)] = child.children.items()
            if not only.children:
                break
            label, child = f"{label}/{below}", only  # noqa: PLW2901
        yield "  " * depth + (label or "''"), child
        yield from rows(child, depth + 1)
