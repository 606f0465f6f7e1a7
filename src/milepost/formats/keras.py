"""`.keras` files, Keras's own format since Keras 3, and the same files in a folder.

    config.json         the structure
    metadata.json       {"keras_version": "3.15.1", "date_saved": "..."}
    model.weights.h5    the weights: layers/dense/vars/0
    assets/...          what layers keep in files: vocabularies

https://github.com/keras-team/keras/blob/master/keras/src/saving/saving_lib.py
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import weakref
from collections.abc import Callable, Mapping
from typing import IO, Any

from milepost.encodings import hdf5
from milepost.encodings.zip import MARK, Archive, read_archive
from milepost.errors import DamagedError, MilepostError, UnknownFormatError, UntrustedError
from milepost.formats.archive import first_member
from milepost.formats.hdf5 import records, shown_attributes
from milepost.formats.keras_config import KerasSnapshot, KerasStructure, read_json
from milepost.formats.place import Place
from milepost.snapshot import Description, Snapshot, closing_on_error
from milepost.source import ByteSource, read_exactly
from milepost.storage.local import open_file

_CONFIG, _METADATA, _WEIGHTS, _ASSETS = "config.json", "metadata.json", "model.weights.h5", "assets"
_WEIGHTS_ARRAYS = "model.weights.npz"
_NAMES = {_CONFIG, _METADATA, _WEIGHTS, _WEIGHTS_ARRAYS}
_MOST_JSON, _MOST_ASSET = 16 << 20, 256 << 20
# Keras stores without compression; where somebody else compressed, weights do not shrink by more.
_MOST_SHRUNK, _SMALL = 50, 64 << 20
_BLOCK = 1 << 20


def recognises(place: Place) -> bool:
    """A zip archive, or a folder, of a structure and weights."""
    if place.is_folder:
        return {_CONFIG, _WEIGHTS} <= set(place.names)
    if not place.start.startswith(MARK):
        return False
    source = place.open()
    try:
        return {_CONFIG} < _NAMES & read_archive(source).members.keys()
    except MilepostError:  # it is opened if its first member is one of Keras's: that says why
        return first_member(place).decode("latin-1") in _NAMES
    finally:
        source.close()


def open_place(place: Place) -> Snapshot:
    """The snapshot of a `.keras` file, or of such a folder.

    Raises:
        DamagedError: it is not valid.
        UntrustedError: it is made so that readers differ on what is in it, or to fill the memory.
    """
    if place.is_folder:
        return _open_folder(place)
    source = place.open()
    with closing_on_error([source]):
        archive = read_archive(source)
        assets = {
            name.partition("/")[2]: functools.partial(archive.read, name, _MOST_ASSET)
            for name in archive.members
            if name.startswith(f"{_ASSETS}/")
        }
        read = functools.partial(_member, archive)
        weights = _weights(archive)
        with closing_on_error([weights]):
            return _snapshot(source.name, read, assets, [weights, source])


def _member(archive: Archive, name: str) -> bytes | None:
    return archive.read(name, _MOST_JSON) if name in archive.members else None


def _weights(archive: Archive) -> ByteSource:
    """The file of weights inside an archive."""
    if _WEIGHTS_ARRAYS in archive.members:
        raise UnknownFormatError(
            f"{archive.file.name} keeps its weights in {_WEIGHTS_ARRAYS}: load it with Keras, and "
            "save it once more"
        )
    source = archive.source(_WEIGHTS)
    member = archive.members[_WEIGHTS]
    if member.stored:
        return source
    if member.size > _SMALL + _MOST_SHRUNK * member.compressed:
        raise UntrustedError(
            f"{source.name} claims to inflate from {member.compressed:,} bytes to "
            f"{member.size:,}: weights do not shrink so much"
        )
    return _Inflated(source)


def _open_folder(place: Place) -> Snapshot:
    weights = open_file(place.beside(_WEIGHTS))
    with closing_on_error([weights]):
        folder = place.beside(_ASSETS)
        assets = {name: functools.partial(_read, path) for name, path in _files(folder)}

        def read(name: str) -> bytes | None:
            return _read(place.beside(name), _MOST_JSON) if name in place.names else None

        return _snapshot(place.path, read, assets, [weights])


def _files(folder: str) -> list[tuple[str, str]]:
    """Every file below a folder, by its way there and its path. Links are not followed."""
    found = []
    for at, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            if os.path.islink(os.path.join(at, name)):
                raise UntrustedError(f"{at} has the link {name!r}: the files must lie there")
        paths = [os.path.join(at, name) for name in names]
        found += [(os.path.relpath(path, folder).replace(os.sep, "/"), path) for path in paths]
    return sorted(found)


def _read(path: str, limit: int = _MOST_ASSET) -> bytes:
    source = open_file(path)
    try:
        if source.size > limit:
            raise DamagedError(f"{path} has {source.size:,} bytes, expected at most {limit:,}")
        return bytes(read_exactly(source, 0, source.size))
    finally:
        source.close()


def _snapshot(
    name: str,
    read: Callable[[str], bytes | None],
    assets: Mapping[str, Callable[[], bytes]],
    files: list[ByteSource],
) -> Snapshot:
    config = read_json(f"{name}:{_CONFIG}", read(_CONFIG) or b"")
    told = read(_METADATA)
    metadata: dict[str, Any] = {} if told is None else read_json(f"{name}:{_METADATA}", told)
    contents = hdf5.read_contents(files[0])
    version = metadata.get("keras_version")
    structure = KerasStructure(
        "vars", config, None, version[:80] if isinstance(version, str) else "", assets=assets
    )
    attributes = shown_attributes(contents)
    description = Description("Keras model", {**metadata, "attributes": attributes})
    return KerasSnapshot(
        name,
        records(contents),
        files,
        description,
        structure=structure,
        attributes=contents.attributes,
    )


class _Inflated:
    """What a compressed member inflates to, in a temporary file that has no name."""

    def __init__(self, source: ByteSource) -> None:
        self.name, self.size = source.name, source.size
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._close = weakref.finalize(self, self._file.close)
        with contextlib.ExitStack() as failed:
            failed.callback(self.close)
            for start in range(0, self.size, _BLOCK):
                self._file.write(read_exactly(source, start, min(_BLOCK, self.size - start)))
            self._file.flush()
            failed.pop_all()

    def read_into(self, offset: int, buffer: memoryview) -> int:
        if not self._close.alive:
            raise ValueError(f"{self.name} is closed")
        return os.preadv(self._file.fileno(), [buffer], offset)

    def close(self) -> None:
        self._close()
