"""Safetensors files, or a folder of them with an index, in the layout of the Hugging Face Hub."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from milepost import container, dtypes
from milepost.conversion.content import Content, Tensor
from milepost.conversion.writers import Options, Written
from milepost.conversion.writers.appending import new_file
from milepost.digest import Buffer
from milepost.errors import MilepostError, UsageError
from milepost.formats import model_file, sharded
from milepost.formats.safetensors import ModelSnapshot
from milepost.formats.sharding import grouped
from milepost.limits import is_writable
from milepost.record import encode_plain
from milepost.state import Plain
from milepost.storage.folder import Contents, replace_folder

NAME = "a safetensors file"
KEEPS_METADATA = True
# Also those that milepost's own files do not use: here it is these, or nothing.
_CODES = {name: code for code, name in dtypes.CODE_NAMES.items()}


def holds(dtype: str) -> bool:
    return dtype in _CODES


def keeps(name: str, value: Plain) -> bool:
    """As text in `__metadata__`, under its name. That of milepost's own files is not for it."""
    return name != model_file.KEY


def write(path: str, content: Content, options: Options) -> Written:
    if options.shard_size is not None:
        return _write_folder(path, content, options.shard_size)
    header, tensors, length = _layout(content.tensors.values(), _metadata(content))
    with new_file(path, len(header) + length) as out:
        out.add(header)
        for tensor in tensors:
            for data in tensor.data():
                out.add(data)
    return Written((path,))


def _layout(
    tensors: Iterable[Tensor], metadata: Mapping[str, str]
) -> tuple[bytes, list[Tensor], int]:
    """The header, the tensors in their order in the file, and how many bytes these have."""
    # Wide elements first: then each tensor is aligned to its own element size.
    ordered = sorted(tensors, key=lambda tensor: -tensor.itemsize)
    entries = ((t.name, _CODES[t.dtype], t.shape, t.nbytes) for t in ordered)
    header, length = container.build_header(entries, metadata)
    return header, ordered, length


def _metadata(content: Content) -> dict[str, str]:
    """`__metadata__`: what the source had for metadata, and the plain values.

    A text stays as it is, everything else becomes JSON.
    """
    description = content.description
    found = {
        str(key): _text(value)
        for key, value in description.metadata.items()
        if key != model_file.KEY and is_writable(str(key))
    }
    found |= {name: _text(encode_plain(value)) for name, value in content.values.items()}
    if found and "torch" in description.format.lower():
        found.setdefault("format", "pt")  # Transformers' loader wants it, if there is anything
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) and is_writable(value) else json.dumps(value)


def _write_folder(path: str, content: Content, shard_size: int) -> Written:
    replaced = _files_of(path)
    groups = list(grouped(content.tensors.values(), shard_size))
    metadata = _metadata(content)
    files: dict[str, Contents] = {}
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        name = sharded.shard_name(number, len(groups))
        files[name] = _contents(group, metadata)
        weight_map |= {tensor.name: name for tensor in group}
    if len(groups) > 1:
        index = sharded.encode_index(weight_map, content.nbytes)
        files[sharded.INDEX] = [index], len(index)
    replace_folder(path, files, replaced)
    return Written(tuple(os.path.join(path, name) for name in files))


def _contents(tensors: Iterable[Tensor], metadata: Mapping[str, str]) -> Contents:
    header, ordered, length = _layout(tensors, metadata)
    data: Iterable[Buffer] = itertools.chain.from_iterable(tensor.data() for tensor in ordered)
    return itertools.chain([header], data), len(header) + length


def _files_of(folder: str) -> list[str]:
    """The files of a folder that gives way: one that holds nothing but shards and their index.

    Raises:
        UsageError: it holds something else.
    """
    if not os.path.isdir(folder):
        if os.path.lexists(folder):
            raise UsageError(f"{folder} is a file, and shard_size writes a folder: write elsewhere")
        return []
    names = set(os.listdir(folder))
    ours: set[str] = set()
    try:
        with sharded.open_folder(folder) as snapshot:
            if not isinstance(snapshot, ModelSnapshot):
                ours = {*map(os.path.basename, snapshot.files), sharded.INDEX}
    except MilepostError:
        pass  # what cannot be read may be anything
    if names - ours:
        raise UsageError(
            f"{folder} holds {min(names - ours)!r}, which is no part of what a conversion writes: "
            "nothing was changed; write elsewhere, or remove the folder first"
        )
    return sorted(names)
