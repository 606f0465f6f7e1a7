"""Models in a folder, in the layout of the Hugging Face Hub: one file, or shards and an index.

    model-00001-of-00002.safetensors
    model-00002-of-00002.safetensors
    model.safetensors.index.json     {"metadata": {"total_size": n}, "weight_map": {tensor: file}}

Whoever wrote the index may be hostile: the files that it names are those beside it, and each
tensor is where it says, or nothing is opened.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

from milepost import container
from milepost.errors import DamagedError, PathNotFoundError
from milepost.formats import safetensors
from milepost.formats.model_file import KEY, SHARD, Part
from milepost.formats.place import Place
from milepost.snapshot import Description, Snapshot, closing_on_error
from milepost.source import read_exactly
from milepost.storage.local import open_file

_SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
# What Transformers, Diffusers and PEFT call the file of a model.
_STEMS = ("model", "diffusion_pytorch_model", "adapter_model")
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Some 140,000 tensors: more than any model has that is known. What Python makes of a hostile
# text is many times its size, and worst of all with lists in it, of which an index has none.
_MAX_INDEX_BYTES, _MAX_BRACKETS = 16 << 20, 1000


def shard_name(number: int, count: int) -> str:
    """What the hub calls shard `number`, counted from 1; all of a model is one file."""
    return WHOLE if count == 1 else f"model-{number:05}-of-{count:05}{_SUFFIX}"


def encode_index(weight_map: Mapping[str, str], total_size: int) -> bytes:
    """An index, as Transformers writes it."""
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(weight_map)}
    return json.dumps(index, indent=2, ensure_ascii=False).encode() + b"\n"


def recognises(place: Place) -> bool:
    """A folder with a model's file or index in it, or an index itself."""
    if place.is_folder:
        return _main_file(place.path) is not None
    return place.start.lstrip()[:1] == b"{" and b'"weight_map"' in place.start + place.end


def open_place(place: Place) -> Snapshot:
    """The snapshot of a folder of this layout, or of an index; raises what `open_folder` does."""
    return open_folder(place.path) if place.is_folder else open_index(place.path)


def open_folder(path: str) -> Snapshot:
    """The snapshot in a folder of this layout: a `ModelSnapshot`, if milepost saved it.

    Raises:
        PathNotFoundError: it has neither an index nor a model's file.
        DamagedError: the files do not belong together, or one is not valid.
        VersionError: a newer milepost wrote it.
    """
    main = _main_file(path)
    if main is None:
        raise PathNotFoundError(f"{path} has no {INDEX} and no {WHOLE}")
    if main.endswith(INDEX_SUFFIX):
        return open_index(os.path.join(path, main))
    source = open_file(os.path.join(path, main))
    with closing_on_error([source]):
        return safetensors.open_source(source)


def open_index(path: str) -> Snapshot:
    """The snapshot of an index and the shards beside it; raises what `open_folder` does."""
    folder, base = os.path.split(os.path.abspath(path))
    weight_map, metadata = read_index(path, (_SUFFIX,))
    tensors: dict[str, set[str]] = {name: set() for name in sorted(set(weight_map.values()))}
    for tensor, name in weight_map.items():
        tensors[name].add(tensor)
    parts: list[Part] = []
    with contextlib.ExitStack() as opened:
        for name, expected in tensors.items():
            try:
                source = open_file(os.path.join(folder, name))
            except PathNotFoundError as error:
                raise DamagedError(f"{path} names a file that is not there: {error}") from None
            opened.callback(source.close)
            parts.append((container.read_header(source), source))
            _check_shard(base, expected, parts[-1])
        snapshot = _snapshot(folder, parts, metadata)
        opened.pop_all()
        return snapshot


def _snapshot(folder: str, parts: list[Part], metadata: Any) -> Snapshot:
    """Shards of milepost's are a model, in the order of their names; others are just tensors."""
    if parts and safetensors.is_model(parts[0][0]):
        model = safetensors.ModelSnapshot(*parts, name=folder)
        total = sum(e.nbytes for header, _ in parts for e in header.tensors.values())
        if metadata != {"total_size": total}:
            raise DamagedError(f"the index in {folder} has {metadata!r:.80} for its metadata")
        return model
    for header, source in parts:
        if f'"{SHARD}":' in header.metadata.get(KEY, "")[:160]:
            raise DamagedError(
                f"{source.name} is a shard of a model, whose first file is not in the index: put "
                "back the files that were saved together"
            )
    records = {
        name: safetensors.plain_record(entry, number)
        for number, (header, _) in enumerate(parts)
        for name, entry in header.tensors.items()
    }
    description = Description("safetensors", metadata if isinstance(metadata, dict) else {})
    return Snapshot(folder, records, [source for _, source in parts], description)


def _check_shard(index: str, tensors: set[str], part: Part) -> None:
    header, source = part
    for problem, wrong in (
        ("lacks", tensors - header.tensors.keys()),
        ("also has", header.tensors.keys() - tensors),
    ):
        if wrong:
            raise DamagedError(
                f"{source.name} {problem} the tensor {min(wrong)!r}, against {index}: put back "
                "the files that were saved together"
            )


def read_index(path: str, suffixes: tuple[str, ...]) -> tuple[dict[str, str], Any]:
    """The file of each tensor, and the metadata: the files are beside the index, and called so.

    Raises:
        DamagedError: it is no index of such files.
    """
    source = open_file(path)
    try:
        if source.size > _MAX_INDEX_BYTES:
            raise DamagedError(f"{path} has {source.size:,} bytes, too many for an index")
        text = bytes(read_exactly(source, 0, source.size))
    finally:
        source.close()
    try:
        if text.count(b"[") + text.count(b"{") > _MAX_BRACKETS:
            raise ValueError("too many brackets")
        index = json.loads(text, object_pairs_hook=_without_duplicates)
        weight_map, metadata = index["weight_map"], index.get("metadata", {})
        wrong = [name for name in weight_map.values() if not _is_file_name(name, suffixes)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(
            f"{path} is no index of shards: {type(error).__name__}: {error}"
        ) from None
    if wrong:
        raise DamagedError(f"{path} names {wrong[0]!r:.80}, which is no file beside it")
    return weight_map, metadata


def _is_file_name(name: Any, suffixes: tuple[str, ...]) -> bool:
    """Whether it can be a file in the folder of the index, called as a shard is."""
    if not isinstance(name, str) or not name.isprintable():
        return False
    return name.endswith(suffixes) and not set(name) & set("/\\:")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    return result


def _main_file(folder: str) -> str | None:
    """The index of a folder, or its model's only file."""
    candidates = [stem + suffix for suffix in (INDEX_SUFFIX, _SUFFIX) for stem in _STEMS]
    present = (name for name in candidates if os.path.lexists(os.path.join(folder, name)))
    return next(present, None)
