"""Orbax checkpoints: folders of arrays in Zarr's chunks, and the tree that they make.

https://orbax.readthedocs.io/en/latest/guides/checkpoint/checkpoint_format.html

    _CHECKPOINT_METADATA   who wrote which item; in a step's folder
    <item>/_METADATA       JSON: the tree's keys, and what each leaf is
    <item>/manifest.ocdbt  the database with all arrays; or a folder for each array instead
    <item>/_strings.json   leaves that are texts

A leaf is called by its keys in the tree, joined by `/`. Those of a step of several items
begin with the item's name. What is not a tree of arrays or JSON is left out, and `facts` says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from milepost.errors import DamagedError, UsageError
from milepost.formats import orbax_tree
from milepost.formats.folder import Folder
from milepost.formats.names import Unique, leaf_name
from milepost.formats.place import Place
from milepost.record import PlainRecord, Record
from milepost.snapshot import Description, Snapshot
from milepost.state import is_plain

_STEP, _JSON = "_CHECKPOINT_METADATA", "metadata"
# `7`, `00000007`, `checkpoint_7`.
_STEP_NAME = re.compile(r"([A-Za-z][\w.-]*_)?[0-9]+")
# What Orbax calls the item of a step that has but one: it says nothing.
_ONLY_ITEM = ("default", "state")
_MAX_DEPTH, _MAX_ITEMS, _MAX_JSON_LEAVES = 4, 1000, 100_000


def recognises(place: Place) -> bool:
    """A folder with metadata of Orbax's in it, or in the folders of its steps."""
    if not place.is_folder:
        return False
    return _STEP in place.names or orbax_tree.is_tree(place.names) or bool(_steps(place))


def open_place(place: Place) -> Snapshot:
    """The snapshot in the folder of a step, of one of its items, or of a tree.

    Raises:
        UsageError: it is the folder of a whole run, with several steps.
        DamagedError: it is not valid, or not finished.
    """
    folder = Folder(place.path)
    if _STEP not in place.names and not orbax_tree.is_tree(place.names):
        steps = sorted(_steps(place), key=lambda name: (len(name), name))
        raise UsageError(
            f"{place.path} has the checkpoints of a whole run: {', '.join(steps[-8:])}. "
            f"Open one of them: milepost.open({place.beside(steps[-1])!r})"
        )
    metadata: dict[str, Any] = _metadata(folder) if _STEP in place.names else {}
    items: dict[str, str] = {}
    found: Mapping[str, Record]
    if orbax_tree.is_tree(place.names):
        found = orbax_tree.read(folder)
    else:
        found = _unique(_items(folder, items))
        metadata["items"] = items
    return Snapshot(place.path, found, [], Description("Orbax checkpoint", metadata))


def _steps(place: Place) -> list[str]:
    """The names of the folders in it that are steps of a run."""
    names = (name for name in place.names if _STEP_NAME.fullmatch(name))
    return [name for name in names if os.path.isfile(os.path.join(place.beside(name), _STEP))]


def _metadata(folder: Folder) -> dict[str, Any]:
    """What the step's own file says that is worth telling."""
    found = folder.read_json(_STEP)
    if not isinstance(found, dict):
        raise DamagedError(f"{folder}/{_STEP} is damaged: it is no JSON object")
    return {key: found[key] for key in ("metrics", "custom_metadata") if found.get(key)}


def _items(folder: Folder, kinds: dict[str, str]) -> Iterator[tuple[str, Record]]:
    """The leaves of a step's items; `kinds` is told what each of these is."""
    items = list(_walk(folder, "", _MAX_DEPTH))
    for name, item, kind in items:
        kinds[name] = kind
        if kind == "not read":
            continue
        records = orbax_tree.read(item) if kind == "tree" else _json_leaves(item)
        bare = len(items) == 1 and name in _ONLY_ITEM
        for leaf, record in records.items():
            yield (leaf if bare else f"{name}/{leaf}" if leaf else name), record


def _walk(folder: Folder, prefix: str, depth: int) -> Iterator[tuple[str, Folder, str]]:
    """The items of a step, which may have items of their own: name, folder, kind."""
    names = folder.names()
    if len(names) > _MAX_ITEMS:
        raise DamagedError(f"{folder} has {len(names):,} items, too many for a checkpoint")
    for name in names:
        path = leaf_name(name.encode(errors="surrogateescape"), folder.path)
        inside = folder.names(name)
        if not inside:
            continue
        item = folder.inside(name)
        if orbax_tree.is_tree(inside):
            yield prefix + path, item, "tree"
        elif _JSON in inside and item.has(_JSON):
            yield prefix + path, item, "JSON"
        elif depth and any(item.names(name) for name in inside):
            yield from _walk(item, f"{prefix}{path}/", depth - 1)
        else:
            yield prefix + path, item, "not read"


def _json_leaves(item: Folder) -> dict[str, Record]:
    """The values in an item of JSON, each by its keys."""
    leaves: dict[str, Record] = {}
    waiting: list[tuple[str, Any]] = [("", item.read_json(_JSON))]
    unique = Unique()
    while waiting:
        name, value = waiting.pop()
        if len(name) > 1000 or len(leaves) > _MAX_JSON_LEAVES:
            raise DamagedError(f"{item}/{_JSON} is damaged: it is too large, or nested too deeply")
        if isinstance(value, dict | list):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            children = [(f"{name}/{key}" if name else str(key), child) for key, child in pairs]
            waiting.extend(reversed(children))
        elif is_plain(value):
            shown = leaf_name(name.encode(errors="backslashreplace"), item.path) if name else ""
            leaves[unique(shown)] = PlainRecord(value)
    return leaves


def _unique(leaves: Iterator[tuple[str, Record]]) -> Mapping[str, Record]:
    unique = Unique()
    return {unique(name): record for name, record in leaves}
