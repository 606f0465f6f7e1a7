"""Writing a model as a folder of shards, in the layout of the Hugging Face Hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from milepost.errors import MilepostError, UsageError
from milepost.formats import model_file, sharded
from milepost.formats.model_file import ModelDocument
from milepost.formats.safetensors import ModelSnapshot
from milepost.formats.sharding import grouped, size_in_bytes
from milepost.model.write import contents, digested
from milepost.state import Leaf
from milepost.storage.filesystem import FileSystem
from milepost.storage.folder import Contents, replace_folder

# What a folder may hold beside the tensors and their index: how the hub describes a model.
_DESCRIPTIONS = ("config.json", "generation_config.json")


def write_shards(
    folder: str,
    leaves: Mapping[str, Leaf],
    ties: Mapping[str, str],
    document: ModelDocument,
    *,
    descriptions: Mapping[str, bytes],
    shard_size: int | str,
    filesystem: FileSystem | None = None,
) -> int:
    """Write a folder beside its target, sync it, and let it take the target's place.

    No tensor is cut: one that is larger than `shard_size` has a file of its own. The document
    lacks its records. Returns the size of all tensors.

    Raises:
        UsageError: the target holds something else than a model that was saved so.
        StorageError, PathNotFoundError: it cannot be written; what was there is as it was.
    """
    limit = size_in_bytes(shard_size)
    replaced = _files_of(folder)
    arrays, records = digested(leaves, ties)
    groups = list(grouped(arrays.values(), limit))
    first = model_file.encode(replace(document, records=records, shards=len(groups)))
    files: dict[str, Contents] = {}
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        name = sharded.shard_name(number, len(groups))
        metadata = first if number == 1 else model_file.encode_shard(first, number)
        files[name] = contents(group, metadata)
        weight_map |= {array.name: name for array in group}
    total = sum(array.nbytes for array in arrays.values())
    texts = dict(descriptions)
    if len(groups) > 1:
        texts[sharded.INDEX] = sharded.encode_index(weight_map, total)
    files |= {name: ([text], len(text)) for name, text in texts.items()}
    replace_folder(folder, files, replaced, filesystem)
    return total


def _files_of(folder: str) -> list[str]:
    """The files of a model that was saved in this folder before, if there is one.

    Raises:
        UsageError: there is something else.
    """
    if not os.path.lexists(folder):
        return []
    names = os.listdir(folder) if os.path.isdir(folder) else None
    if not names:
        if names is None:
            raise UsageError(f"{folder} is a file, and shard_size= writes a folder: save elsewhere")
        return []
    ours: set[str] = set()
    try:
        with sharded.open_folder(folder) as snapshot:
            if isinstance(snapshot, ModelSnapshot):
                ours = {*map(os.path.basename, snapshot.files), sharded.INDEX, *_DESCRIPTIONS}
    except MilepostError:
        pass  # what cannot be read may be anything
    strangers = set(names) - ours
    if strangers:
        raise UsageError(
            f"{folder} holds {min(strangers)!r}, which is no part of a model that save_model saved "
            "there whole: nothing was changed; save elsewhere, or remove the folder first"
        )
    return names
