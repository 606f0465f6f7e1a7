"""`scan`: what a file, or everything in a folder, could do to who opens it the usual way."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from milepost import formats, opening
from milepost.errors import (
    MilepostError,
    NotAStoreError,
    PathNotFoundError,
    UnknownFormatError,
    UntrustedError,
)
from milepost.formats.keras_config import KerasSnapshot
from milepost.opening import Path
from milepost.record import ArrayRecord
from milepost.scanning.content import Budget, ContentScanner
from milepost.scanning.keras_config import scan_config
from milepost.scanning.operations import keras_configurations, scan_saved_model
from milepost.scanning.report import Finding, ScanReport, Severity
from milepost.snapshot import Snapshot
from milepost.source import ByteSource, read_exactly
from milepost.storage.local import LocalStorage, open_file
from milepost.store import Store

_SAVED_MODEL, _KERAS_METADATA = "saved_model.pb", "keras_metadata.pb"
_MOST_GRAPH = 128 << 20


def scan(path: Path) -> ScanReport:
    """What a file, or everything in a folder, could do to who opens it the usual way.

    Nothing of it is run. Every name in every pickle is looked at, wherever it is wrapped: in
    archives, compressed, inside of arrays; Keras's Lambda layers and other code in a
    configuration, source code beside a model, operations that reach files, links, archives made
    to burst. It fails closed: what cannot be looked into makes the whole of it not clean.

    Raises:
        PathNotFoundError: there is nothing at the path.
    """
    root = os.path.abspath(os.fspath(path))
    if not os.path.lexists(root):
        raise PathNotFoundError(f"{root} does not exist")
    found: list[Finding] = []
    budget, files = Budget(), 0
    for file, company in _files(root, found):
        files += 1
        found += _scan_file(file, root, budget, company)
    if os.path.isdir(root):
        found += _opened(root)
    return ScanReport(root, files, tuple(found))


def _files(root: str, found: list[Finding]) -> Iterator[tuple[str, str | None]]:
    """Every file below a path, with the folder of a known format that it belongs to, if any.

    What cannot be listed is added to the findings.
    """
    waiting: list[tuple[str, str | None]] = [(root, None)]
    while waiting:
        path, company = waiting.pop()
        if not os.path.isdir(path) or (os.path.islink(path) and path != root):
            yield path, company
            continue
        if company is None and _is_known(path):
            company = path
        try:
            names = sorted(os.listdir(path), reverse=True)
        except OSError as error:
            found.append(Finding(Severity.UNREADABLE, path, "unreadable", str(error)))
            continue
        waiting += [(os.path.join(path, name), company) for name in names]


def _scan_file(path: str, root: str, budget: Budget, company: str | None) -> Iterator[Finding]:
    try:
        is_link = os.path.islink(path) and path != root
        if is_link and not _is_inside(os.path.realpath(path), root):
            target = os.readlink(path)
            yield Finding(Severity.SUSPICIOUS, path, target, "a link that leads out of here")
        if not stat.S_ISREG(os.stat(path).st_mode):
            yield Finding(Severity.DANGEROUS, path, "no file", "a pipe, a device, a folder's link")
            return
        source = open_file(path)
    except (OSError, MilepostError) as error:
        yield Finding(Severity.UNREADABLE, path, "unreadable", str(error))
        return
    try:
        known = company is not None or _is_known(path)
        yield from ContentScanner(budget, known=known).scan(source, path)
        if os.path.basename(path) in (_SAVED_MODEL, _KERAS_METADATA):
            yield from _scan_graph(source, path)
    finally:
        source.close()
    if _is_known(path):
        yield from _opened(path)


def _is_inside(path: str, root: str) -> bool:
    """Whether a file is in the folder that is scanned, or in the Hugging Face Hub's cache with it.

    There `models--name/snapshots/revision/file` is a link to `models--name/blobs/digest`.
    """
    root = os.path.realpath(root)
    cached, snapshots, _ = f"{root}/".rpartition("/snapshots/")
    folders = [root, os.path.join(cached, "blobs")] if snapshots else [root]
    return any(path.startswith(folder + os.sep) for folder in folders)


def _is_known(path: str) -> bool:
    """Whether milepost reads it: then its own reader says what is wrong with it."""
    try:
        return formats.recognised(formats.place_at(path)) is not None or _is_store(path)
    except (MilepostError, OSError):
        return False


def _is_store(path: str) -> bool:
    return os.path.isdir(path) and Store.is_there(LocalStorage(path))


def _opened(path: str) -> Iterator[Finding]:
    """What the reader of its format finds wrong, and the configuration that it finds in it."""
    try:
        opened = opening.open(path)
    except (UnknownFormatError, NotAStoreError):
        return  # its files were looked at one by one
    except UntrustedError as error:
        yield Finding(Severity.DANGEROUS, path, "a trick", str(error))
        return
    except (MilepostError, OSError) as error:
        yield Finding(Severity.UNREADABLE, path, "unreadable", str(error))
        return
    if not isinstance(opened, Snapshot):
        return
    with opened:
        if isinstance(opened, KerasSnapshot):
            yield from scan_config(opened.structure.config, path)
            yield from scan_config(opened.structure.training, path)
        for name in opened:
            yield from _leaf(opened, path, name)


def _leaf(snapshot: Snapshot, path: str, name: str) -> Iterator[Finding]:
    """What comes of reading a value, or nothing of an array: its reader may refuse."""
    record = snapshot.record(name)
    try:
        if isinstance(record, ArrayRecord):
            snapshot.read_box(name, record, tuple((0, 0) for _ in record.shape))
        else:
            snapshot.read(name)
    except UntrustedError as error:
        yield Finding(Severity.DANGEROUS, path, name, str(error))
    except MilepostError as error:
        yield Finding(Severity.UNREADABLE, path, name, str(error))


def _scan_graph(source: ByteSource, path: str) -> Iterator[Finding]:
    try:
        if source.size > _MOST_GRAPH:
            raise ValueError(f"it has {source.size:,} bytes, more than are looked into")
        data = memoryview(read_exactly(source, 0, source.size))
        graph = os.path.basename(path) == _SAVED_MODEL
        if graph:
            yield from scan_saved_model(data, path)
        for config in keras_configurations(data, graph=graph):
            yield from scan_config(config, path)
    except (MilepostError, ValueError, RecursionError) as error:
        yield Finding(Severity.UNREADABLE, path, "a graph", str(error))
