"""Models in a folder, in the older layouts of the Hugging Face Hub: PyTorch's files, and Flax's.

    pytorch_model.bin                             or adapter_model.bin, flax_model.msgpack, ...
    pytorch_model-00001-of-00002.bin
    pytorch_model.bin.index.json                  {"weight_map": {tensor: file}, "metadata": {..}}

As in `sharded`: whoever wrote the index may be hostile, so the files that it names are those
beside it, and each tensor is where it says, or nothing is opened. Each file is of whichever
format it is.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator

from milepost import formats
from milepost.errors import DamagedError, PathNotFoundError
from milepost.formats import sharded
from milepost.formats.place import Place, place_at
from milepost.reading import Part
from milepost.snapshot import Damage, Description, Snapshot

_SUFFIXES = (".bin", ".pt", ".pth")
_INDEX_SUFFIX = ".bin.index.json"
# In the order in which they are looked for.
_STEMS = ("pytorch_model", "diffusion_pytorch_model", "adapter_model")
_FILES = (
    *(stem + suffix for suffix in (_INDEX_SUFFIX, ".bin") for stem in _STEMS),
    *("flax_model.msgpack", "diffusion_flax_model.msgpack"),
)
# How PyTorch's files begin: as a zip archive, or as a pickle.
_MARKS = (b"PK\x03\x04", b"\x80")


def recognises(place: Place) -> bool:
    """A folder with such a file in it and no safetensors file, or an index itself."""
    if place.is_folder:
        return _main_file(place) is not None and not sharded.recognises(place)
    text = place.start + place.end
    is_index = text.lstrip()[:1] == b"{" and b'"weight_map"' in text
    return is_index and b'.bin"' in text and b".safetensors" not in text


def open_place(place: Place) -> Snapshot:
    """The snapshot of a folder of this layout, or of an index.

    Raises:
        DamagedError: the files do not belong together, or one is not valid.
        PathNotFoundError, UnknownFormatError, UntrustedError, VersionError: as of its file.
    """
    if not place.is_folder:
        return _open_index(place.path)
    main = _main_file(place)
    if main is None:
        raise PathNotFoundError(f"{place.path} has none of {', '.join(_FILES)}")
    path = place.beside(main)
    return _open_index(path) if main.endswith(_INDEX_SUFFIX) else _open_file(path)


class ShardedSnapshot(Snapshot):
    """Several snapshots as one; no two have a leaf of the same name."""

    def __init__(self, name: str, shards: list[Snapshot], description: Description) -> None:
        self._shards = shards
        self._owners = {leaf: shard for shard in shards for leaf in shard}
        records = {leaf: shard.record(leaf) for leaf, shard in self._owners.items()}
        super().__init__(name, records, [], description)

    def close(self) -> None:
        for shard in self._shards:
            shard.close()

    def fetch(self, parts: Iterable[Part], *, look: bool = False) -> None:
        for shard, group in itertools.groupby(parts, lambda part: self._owners[part.leaf]):
            shard.fetch(group, look=look)

    def damage(self) -> Iterator[Damage]:
        for shard in self._shards:
            yield from shard.damage()


def _main_file(place: Place) -> str | None:
    return next((name for name in _FILES if name in place.names), None)


def _open_index(path: str) -> Snapshot:
    folder, base = os.path.split(path)
    weight_map, metadata = sharded.read_index(path, _SUFFIXES)
    expected: dict[str, set[str]] = {name: set() for name in sorted(set(weight_map.values()))}
    for tensor, name in weight_map.items():
        expected[name].add(tensor)
    shards: list[Snapshot] = []
    with contextlib.ExitStack() as opened:
        for name, tensors in expected.items():
            shards.append(_open_file(os.path.join(folder, name)))
            opened.callback(shards[-1].close)
            _check_shard(base, tensors, shards[-1])
        kind = shards[0].description.format if shards else "torch"
        description = Description(kind, metadata if isinstance(metadata, dict) else {})
        snapshot = ShardedSnapshot(folder, shards, description)
        opened.pop_all()
        return snapshot


def _open_file(path: str) -> Snapshot:
    """The snapshot of one file, which may be no index: that of another folder, or its own."""
    try:
        place = place_at(path)
    except PathNotFoundError as error:
        raise DamagedError(f"a file of the model is not there: {error}") from None
    is_flax = path.endswith(".msgpack")
    if place.is_folder or not (is_flax or place.start.startswith(_MARKS)):
        raise DamagedError(f"{path} is not the file of a model that its name says")
    found = formats.recognised(place)
    if found is None:
        raise DamagedError(f"{path} is of no format that milepost reads")
    return found.open_place(place)


def _check_shard(index: str, tensors: set[str], shard: Snapshot) -> None:
    for problem, wrong in (
        ("lacks", tensors - shard.keys()),
        ("also has", shard.keys() - tensors),
    ):
        if wrong:
            raise DamagedError(
                f"{shard.name} {problem} the tensor {min(wrong)!r}, against {index}: put back "
                "the files that were saved together"
            )
