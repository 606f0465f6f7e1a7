"""`only=` and `rename=`: which leaves a restore is about, and what they are called here."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from milepost import tree
from milepost.errors import UsageError
from milepost.state import ObjectInfo, join
from milepost.tree import Structure


class Selection:
    """The names that `only=` includes: given, below a given one, or matched by a glob.

    Raises:
        UsageError: `only` is a string, or one of its names names nothing.
    """

    def __init__(self, only: Sequence[str] | None, names: Iterable[str]) -> None:
        if isinstance(only, str):
            raise UsageError(
                f"only= takes a list of names, found the string {only!r}: write only=[{only!r}]"
            )
        self.is_everything = only is None
        self._names = frozenset(only or ())
        globs = {name: re.compile(fnmatch.translate(name)) for name in only or () if _is_glob(name)}
        self._globs = list(globs.values())
        unused = set(self._names) if only else set()
        for name in names if unused else ():
            unused.difference_update(_above(name))
            unused.difference_update([g for g in unused & globs.keys() if globs[g].match(name)])
        if unused:
            raise UsageError(
                f"only=[{min(unused)!r}]: neither the objects nor the snapshot have it"
            )

    def __contains__(self, name: str) -> bool:
        return (
            self.is_everything
            or any(above in self._names for above in _above(name))
            or any(glob.match(name) for glob in self._globs)
        )


def _is_glob(name: str) -> bool:
    return any(character in name for character in "*?[")


def _above(name: str) -> Iterator[str]:
    """`name`, and every part of it up to a slash or, in PyTorch's names, a dot."""
    yield name
    for i in range(len(name) - 1, 0, -1):
        if name[i] in "/.":
            yield name[:i]


def _beginnings(name: str) -> Iterator[str]:
    """What `rename` may call `name` by: as `_above`, each also with its separator; last nothing."""
    yield name
    for i in range(len(name) - 1, 0, -1):
        if name[i] in "/.":
            yield name[: i + 1]
            yield name[:i]
    yield ""


class Renaming:
    """The names of a snapshot as the live objects call them, by the longest match of `rename`.

    A key that ends in a slash or a dot is replaced with it; the empty key is before every name.
    """

    def __init__(self, rename: Mapping[str, str] | None) -> None:
        self._rename = dict(rename or {})

    def __call__(self, name: str) -> str:
        above = self._key(name)
        return name if above is None else self._rename[above] + name[len(above) :]

    def _key(self, name: str) -> str | None:
        """The longest key of `rename` that `name` begins with."""
        return next((k for k in _beginnings(name) if k in self._rename), None)

    def text(self, value: Any) -> Any:
        """A saved value; a list of names as text (an optimizer's parameters) as they are here."""
        if not self._rename or not isinstance(value, str):
            return value
        return "\n".join(sorted(map(self, value.split("\n"))))

    def leaves(self, names: Iterable[str]) -> dict[str, str]:
        """Live name -> snapshot name, for every leaf of the snapshot.

        Raises:
            UsageError: two leaves would get one name, or a name names nothing.
        """
        if not self._rename:
            return {name: name for name in names}
        unused = set(self._rename)
        sources: dict[str, str] = {}
        for name in names:
            new = self(name)
            if unused:
                unused.difference_update(_beginnings(name))
            if new in sources:
                raise UsageError(
                    f"rename would give the name {new!r} to both {sources[new]!r} and {name!r}"
                )
            sources[new] = name
        if unused:
            raise UsageError(
                f"rename={{{min(unused)!r}: ...}}: the snapshot has nothing of that name"
            )
        return sources

    def objects(
        self, saved: Mapping[str, ObjectInfo], live: Mapping[str, ObjectInfo]
    ) -> dict[str, ObjectInfo]:
        """What the snapshot says of its objects, with every part where it is now.

        `live` says which containers there are for what moves between them.
        """
        if not self._rename:
            return dict(saved)
        moved: list[tuple[str, Structure]] = []
        forest = self._split(_forest(saved), "", moved)
        for name, node in sorted(moved, key=lambda item: len(item[0])):
            _put(forest, _forest(live), name, node)
        infos = {self(name): info for name, info in saved.items()}
        return {
            str(name): replace(infos.get(str(name), ObjectInfo("python")), structure=node)
            for name, node in tree.children(forest)
        }

    def _split(self, node: Structure, name: str, moved: list[tuple[str, Structure]]) -> Structure:
        """A copy of a structure without what goes elsewhere, which `moved` takes."""
        kind = tree.kind_of(node)
        if node is None or kind == "leaf":
            return node
        stays: list[object] = []
        for item, (key, child) in zip(node[kind], tree.children(node), strict=True):
            old = join(name, tree.key_text(key))
            part = self._split(child, old, moved)
            in_place = self(old) == join(self(name), tree.key_text(key))
            if not in_place:
                moved.append((self(old), part))
            if kind in tree.SEQUENCES:
                stays.append(part)  # what follows keeps its position
            elif in_place and not (_is_empty(part) and not _is_empty(child)):
                stays.append([item[0], part])
        return {**node, kind: stays}


def _is_empty(node: Structure) -> bool:
    return tree.kind_of(node) != "leaf" and not any(True for _ in tree.children(node))


def _forest(objects: Mapping[str, ObjectInfo]) -> Structure:
    return {"dict": [[name, info.structure] for name, info in objects.items()]}


def _put(node: Structure, live: Structure, name: str, item: Structure) -> None:
    """Put a structure into containers, in the place that `name` is there."""
    kind = tree.kind_of(node)
    if node is None or kind == "leaf":
        return
    for place, (key, child) in enumerate(list(tree.children(node))):
        text = tree.key_text(key)
        if text == name:
            _set_child(node, place, item)
            return
        if name.startswith(f"{text}/") and tree.kind_of(child) != "leaf":
            _put(child, _child(live, text), name[len(text) + 1 :], item)
            return
    for place, (key, child) in enumerate(tree.children(live)):
        text = tree.key_text(key)
        if tree.kind_of(child) != "leaf" and name.startswith(f"{text}/"):
            made = _emptied(child)
            _put(made, child, name[len(text) + 1 :], item)
            if kind in tree.SEQUENCES:
                _set_child(node, place, made)
            else:
                node[kind].append([tree.encode_key(key), made])
            return
    if kind not in tree.SEQUENCES:
        node[kind].append([name, item])


def _set_child(node: dict[str, Any], place: int, item: Structure) -> None:
    kind = tree.kind_of(node)
    node[kind][place] = item if kind in tree.SEQUENCES else [node[kind][place][0], item]


def _emptied(live: Structure) -> Structure:
    """A container like a live one, with nothing in it; a sequence has its places."""
    kind = tree.kind_of(live)
    places = [None for _ in tree.children(live)] if kind in tree.SEQUENCES else []
    return {**(live or {}), kind: places}


def _child(node: Structure, text: str) -> Structure:
    return next((child for key, child in tree.children(node) if tree.key_text(key) == text), None)
