"""`save_model`: a whole model into one safetensors file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from milepost import container, dtypes, frameworks
from milepost.digest import Buffer
from milepost.errors import UnsupportedObjectError
from milepost.formats import model_file
from milepost.formats.model_file import ModelDocument
from milepost.frameworks.base import capture_objects
from milepost.model.randomness import unchanged_random_state
from milepost.pieces import DigestedArray, digest_array
from milepost.provenance import json_values, versions
from milepost.record import ArrayRecord, Chunk, PlainRecord, Record
from milepost.state import Leaf, is_array, is_plain
from milepost.storage.filesystem import FileSystem
from milepost.storage.local import replace_file


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What `save_model` wrote.

    Attributes:
        path: the file.
        framework: `"keras"` or `"torch"`.
        leaves: how many leaves there are.
        nbytes: the size of all arrays together.
        needs: classes that a program has to register or pass before it can load the file.
        seconds: how long it took, durable at the end.
    """

    path: str
    framework: str
    leaves: int
    nbytes: int
    needs: tuple[str, ...]
    seconds: float


def save_model(
    model: Any,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, Any] | None = None,
    filesystem: FileSystem | None = None,
) -> ModelReport:
    """Save a whole model as one safetensors file: structure, weights, configuration, assets.

    Of a Keras model also how it is compiled, and its optimizer's state. The file is written
    beside its target and takes its place once it is whole and on the disk: a crash never
    costs the model that was there before.

    Arguments:
        model: a Keras model, or a PyTorch module built from `torch.nn`.
        path: the file, exactly as given; no extension is added or needed.
        metadata: JSON values of your own.
        filesystem: for tests: one that fails on purpose.

    Raises:
        UnsupportedObjectError: the model cannot be saved so that it can be built again; the
            message names the part.
        StorageError, PathNotFoundError: the file cannot be written. What was there before
            is as it was.
    """
    began = time.monotonic()
    target = os.path.abspath(os.fspath(path))
    name, framework = _framework(model)
    with unchanged_random_state():  # PyTorch's models are built once more, as a proof
        structure, assets = framework.describe(model)
    state = capture_objects({"": model}, frameworks.finder())
    leaves: dict[str, Leaf] = dict(state.leaves)
    for asset, data in assets.items():
        leaves[model_file.ASSETS + asset] = np.frombuffer(data, np.uint8)
    arrays = {
        leaf: digest_array(leaf, value)
        for leaf, value in leaves.items()
        if is_array(value) and leaf not in state.ties
    }
    records = {
        leaf: _record(value, arrays.get(state.ties.get(leaf, leaf)))
        for leaf, value in leaves.items()
    }
    document = ModelDocument(
        name, structure, records, state.ties, json_values(metadata or {}), versions()
    )
    # Wide elements first: then each tensor is aligned to its own element size.
    ordered = sorted(arrays.values(), key=lambda a: -dtypes.numpy_dtype(a.dtype).itemsize)
    header, length = container.build_header(
        ((a.name, *dtypes.container_type(a.dtype, a.shape), a.nbytes) for a in ordered),
        model_file.encode(document),
    )
    replace_file(target, _parts(header, ordered), len(header) + length, filesystem)
    needs = tuple(structure.get("needs", ()))
    return ModelReport(target, name, len(leaves), length, needs, time.monotonic() - began)


def _framework(model: Any) -> tuple[str, Any]:
    """The framework of a model, if it can describe whole ones."""
    framework = frameworks.finder()(model)
    if framework is None or not hasattr(framework, "describe") or not callable(model):
        raise UnsupportedObjectError(
            f"expected a Keras model or a PyTorch module, found {type(model).__module__}."
            f"{type(model).__qualname__}: save other objects with Checkpoint(...).save(path)"
        )
    return framework.__name__.rpartition(".")[2], framework  # type: ignore[attr-defined]


def _record(leaf: Leaf, array: DigestedArray | None) -> Record:
    if is_plain(leaf):
        return PlainRecord(leaf)
    assert array is not None, "every array leaf was digested, or is tied to one that was"
    chunks = tuple(
        Chunk(p.offset, p.shape, p.digest, p.checksum, 0, p.start, p.nbytes) for p in array.pieces
    )
    return ArrayRecord(array.dtype, array.shape, chunks)


def _parts(header: bytes, arrays: list[DigestedArray]) -> Iterator[Buffer]:
    yield header
    for array in arrays:
        yield from array.data(array.pieces)
