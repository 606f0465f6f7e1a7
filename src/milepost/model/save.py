"""`save_model`: a whole model into one safetensors file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from milepost import frameworks
from milepost.errors import UnsupportedObjectError, UsageError
from milepost.formats import model_file
from milepost.formats.model_file import ModelDocument
from milepost.frameworks.base import ModelParts, capture_objects
from milepost.model import portable
from milepost.model.about import about
from milepost.model.example import make_example, signature
from milepost.model.randomness import unchanged_random_state
from milepost.model.report import ModelReport
from milepost.model.shards import write_shards
from milepost.model.write import write_file
from milepost.provenance import json_values, versions
from milepost.state import Leaf, State
from milepost.storage.filesystem import FileSystem


def save_model(
    model: Any,
    path: str | os.PathLike[str],
    *,
    example: Any = None,
    program: bool = False,
    labels: Iterable[str] | None = None,
    metrics: Mapping[str, Any] | None = None,
    step: int | None = None,
    license: str | None = None,
    notes: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    strict: bool = False,
    tolerance: float | None = None,
    shard_size: int | str | None = None,
    filesystem: FileSystem | None = None,
) -> ModelReport:
    """Save a whole model as one safetensors file: structure, weights, configuration, assets.

    Of a Keras model also how it is compiled, and its optimizer's state. The file is written
    beside its target and takes its place once it is whole and on the disk: a crash never
    costs the model that was there before.

    Arguments:
        model: a Keras model, a PyTorch module, or a model of JAX (Flax, Equinox, a registered
            function in `jax.tree_util.Partial`).
        path: the file, or with `shard_size` the folder, exactly as given; no extension is added
            or needed.
        example: inputs to keep with what the model makes of them, so that a loaded model can
            be checked: an array, or whatever nests arrays. A tuple is several arguments, a
            dict those of a PyTorch or JAX model by name; a Keras model takes it as it is.
        program: also store the model as a program that runs without its framework or classes;
            needs `example`.
        labels: the names of the classes, in the order of the outputs.
        metrics: name -> number.
        step: of the training.
        license: such as `"apache-2.0"`.
        notes: a text, Markdown if you like.
        metadata: JSON values of your own.
        strict: refuse to save a model of which something would be lost.
        tolerance: the difference that a replay of the example allows where framework, version
            or device are others, as a share of the largest output; by default the dtype's.
        shard_size: write a folder in the layout of the Hugging Face Hub instead: files of at
            most this many bytes, or `"2GB"`, and their index; of a Transformers model also its
            `config.json`, so that `from_pretrained` loads the folder too.
        filesystem: for tests: one that fails on purpose.

    Raises:
        UnsupportedObjectError: the model cannot be saved so that it can be built again; the
            message names the part. With `strict` also if something would be lost.
        UsageError: an argument is of the wrong kind.
        MissingPackageError: `program` needs a package that is not installed.
        StorageError, PathNotFoundError: the file cannot be written. What was there before
            is as it was.
    """
    began = time.monotonic()
    target = os.path.abspath(os.fspath(path))
    told = about(labels=labels, metrics=metrics, step=step, license=license, notes=notes)
    name, framework = _framework(model)
    with unchanged_random_state():  # some models are built once more, as a proof
        parts: ModelParts = framework.describe(model)
        _refuse_loss(parts.lost, strict)
        facts = _facts(framework, model, example, program, tolerance)
    state = capture_objects({"": model}, frameworks.finder())
    leaves: dict[str, Leaf] = dict(state.leaves)
    for asset, data in parts.assets.items():
        leaves[model_file.ASSETS + asset] = np.frombuffer(data, np.uint8)
    document = ModelDocument(
        name,
        parts.structure,
        {},
        state.ties,
        json_values(metadata or {}),
        versions(),
        about=told,
        lost=parts.lost,
        **facts,
    )
    if shard_size is not None:
        hub_files = getattr(framework, "hub_files", None)
        length = write_shards(
            target,
            leaves,
            state.ties,
            document,
            descriptions=hub_files(parts.structure) if hub_files else {},
            shard_size=shard_size,
            filesystem=filesystem,
        )
    else:
        length = write_file(
            target,
            leaves,
            state.ties,
            lambda records: model_file.encode(replace(document, records=records)),
            filesystem,
        )
    return ModelReport(
        target,
        name,
        len(leaves),
        length,
        tuple(parts.structure.get("needs", ())),
        time.monotonic() - began,
        captured=_captured(state, parts, document),
        lost=parts.lost,
        versions=document.versions,
    )


def _framework(model: Any) -> tuple[str, Any]:
    """The framework of a model, if it can describe whole ones."""
    framework = frameworks.finder()(model)
    is_model = getattr(framework, "is_model", callable)
    if framework is None or not hasattr(framework, "describe") or not is_model(model):
        raise UnsupportedObjectError(
            f"expected a model of Keras, PyTorch or JAX, found {type(model).__module__}."
            f"{type(model).__qualname__}: save other objects with Checkpoint(...).save(path)"
        )
    return framework.__name__.rpartition(".")[2], framework  # type: ignore[attr-defined]


def _refuse_loss(lost: tuple[str, ...], strict: bool) -> None:
    if strict and lost:
        raise UnsupportedObjectError(
            "strict=True, and something of the model would be lost: " + "; ".join(lost)
        )


def _facts(
    framework: Any, model: Any, example: Any, program: bool, tolerance: float | None
) -> dict[str, Any]:
    """The example, the signature and the program, as far as they were asked for."""
    if example is None:
        if program:
            raise UsageError(
                "program=True needs example=: a program is made by following what the model "
                "does with real inputs"
            )
        return {}
    if not hasattr(framework, "predict"):
        raise UsageError(f"example= is not known for models of {framework.__name__}")
    kept = make_example(framework, model, example, tolerance)
    shapes = signature(framework, model, kept)
    exported = portable.export(framework, model, example, shapes, kept) if program else None
    return {"example": kept, "signature": shapes, "program": exported}


def _captured(state: State, parts: ModelParts, document: ModelDocument) -> tuple[str, ...]:
    """The kinds of things that a file has."""
    tops = {name.partition("/")[0] for name in state.leaves}
    found = ["structure", "weights"]
    found += [kind for kind in ("optimizer", "metrics") if kind in tops]
    found += ["assets"] if parts.assets else []
    found += [kind for kind in ("example", "signature", "program") if getattr(document, kind)]
    return (*found, *document.about)
