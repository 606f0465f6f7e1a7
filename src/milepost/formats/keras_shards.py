"""Keras weights in several HDF5 files, and the index that tells what is in which.

    model.weights.json         {"metadata": {"total_size": n}, "weight_map": {group: file or files}}
    model_00000.weights.h5
    model_00001.weights.h5

Whoever wrote the index may be hostile: the files that it names are those beside it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Mapping
from typing import Any

from milepost.encodings import hdf5
from milepost.errors import DamagedError, PathNotFoundError
from milepost.formats.hdf5 import records, shown_attributes
from milepost.formats.keras_config import KerasSnapshot, KerasStructure, read_json
from milepost.formats.place import Place
from milepost.record import Record
from milepost.snapshot import Description, Snapshot
from milepost.source import ByteSource, read_exactly
from milepost.storage.local import open_file

_SHARD = re.compile(r"[^/\\:\x00-\x1f]+_\d{5}\.weights\.h5")
_MOST_BYTES = 16 << 20


def recognises(place: Place) -> bool:
    """An index of such files."""
    text = place.start + place.end
    return place.start.lstrip()[:1] == b"{" and b'"weight_map"' in text and b".weights.h5" in text


def open_place(place: Place) -> Snapshot:
    """The snapshot of an index and the files beside it.

    Raises:
        DamagedError: they do not belong together, or one is not valid.
        UntrustedError: one leads to other files.
    """
    metadata, weight_map = _read_index(place)
    parts: dict[str, Record] = {}
    attributes: dict[str, dict[str, Any]] = {}
    shown: dict[str, Any] = {}
    files: list[ByteSource] = []
    with contextlib.ExitStack() as opened:
        for number, name in enumerate(sorted({n for names in weight_map.values() for n in names})):
            try:
                source = open_file(place.beside(name))
            except PathNotFoundError as error:
                raise DamagedError(
                    f"{place.path} names a file that is not there: {error}"
                ) from None
            opened.callback(source.close)
            files.append(source)
            contents = hdf5.read_contents(source)
            found = records(contents, number)
            wrong = _disagreements(name, found, weight_map, parts)
            if wrong:
                raise DamagedError(
                    f"{source.name} and {place.path} disagree on {wrong[0]!r:.80}: put back the "
                    "files that were saved together"
                )
            parts |= found
            shown |= shown_attributes(contents)
            attributes |= {path: dict(own) for path, own in contents.attributes.items()}
        opened.pop_all()
    description = Description("Keras weights", {**metadata, "attributes": shown})
    structure = KerasStructure("vars")
    return KerasSnapshot(
        place.path, parts, files, description, structure=structure, attributes=attributes
    )


def _disagreements(
    name: str,
    found: Mapping[str, Record],
    weight_map: Mapping[str, list[str]],
    before: Collection[str],
) -> list[str]:
    """What a file lacks of what the index says, has beside it, or another has too."""
    groups = {leaf.rpartition("/")[0] for leaf in found}
    wanted = {group for group, names in weight_map.items() if name in names}
    lacking = {group for group in wanted - groups if weight_map[group] == [name]}
    return sorted(lacking | (groups - wanted) | (found.keys() & set(before)))


def _read_index(place: Place) -> tuple[dict[str, Any], dict[str, list[str]]]:
    source = place.open()
    try:
        if source.size > _MOST_BYTES:
            raise DamagedError(f"{place.path} has {source.size:,} bytes, too many for an index")
        index = read_json(place.path, bytes(read_exactly(source, 0, source.size)))
    finally:
        source.close()
    weight_map, metadata = index.get("weight_map"), index.get("metadata")
    if not isinstance(weight_map, dict) or not isinstance(metadata, dict):
        raise DamagedError(f"{place.path} is no index of weights")
    found: dict[str, list[str]] = {}
    for group, names in weight_map.items():
        files = names if isinstance(names, list) else [names]
        for name in files:
            if (
                not isinstance(name, str)
                or not _SHARD.fullmatch(name)
                or name != os.path.basename(name)
            ):
                raise DamagedError(f"{place.path} names {name!r:.80}, which is no file beside it")
        found[group.lstrip("/")] = files
    return metadata, found
