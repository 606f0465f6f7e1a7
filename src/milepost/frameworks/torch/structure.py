"""The structure of a PyTorch module: out as JSON, and in again from known classes only.

A module does not describe itself, so it is read: its class, and for each parameter of its
constructor the attribute of that name. Whether that tells enough is proved when it is saved:
the module is built again from the description and compared.

    {"class": "Linear", "arguments": {"in_features": 2, ...}}     a class of torch.nn
    {"custom": "Net", "arguments": {...}}                         one that the caller passes
    {"class": "Sequential", "children": [["0", node], ...]}       a container
    {"shared": "encoder"}                                         a module that stands there too

What was put into a module after its constructor had run is in its node as well:

    "parts": [["encoder.fc", node], ...]                          modules
    "parametrized": [["encoder.fc", "weight", ...], ...]          what computes a tensor
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from milepost.errors import (
    DamagedError,
    MilepostError,
    UnsupportedObjectError,
    UsageError,
)
from milepost.frameworks.base import ModelParts
from milepost.frameworks.torch.changes import Places, changes
from milepost.frameworks.torch.harm import lost, refuse
from milepost.frameworks.torch.modules import unwrapped
from milepost.frameworks.torch.parts import needs_values
from milepost.frameworks.torch.proof import called, difference
from milepost.frameworks.torch.reader import Reader
from milepost.frameworks.torch.settings import default_dtype, settings, settle, specs_of
from milepost.frameworks.torch.writer import Writer
from milepost.state import LeafSpec


def describe(module: nn.Module) -> ModelParts:
    """The structure of a module as JSON; modules have no assets.

    Raises:
        UnsupportedObjectError: it cannot be built again from that; the message names the
            module, the reason and the ways out.
    """
    inner = unwrapped(module)
    refuse(inner)
    try:
        structure, problem = _proved(inner)
    except RecursionError:
        raise UnsupportedObjectError(
            f"{called('', inner)} is nested too deeply, or contains itself: save a Checkpoint of "
            "its parts, which needs no structure"
        ) from None
    if problem:
        raise UnsupportedObjectError(
            f"{problem}, so the model could not be loaded again. Register its class with "
            "@milepost.register before it is used, or make each argument of the constructor an "
            "attribute of the same name; set other attributes there only, and make a buffer of "
            "what changes later; put a new module in the place of one of PyTorch's own that was "
            "changed; or save a Checkpoint, which needs no structure"
        )
    return ModelParts(structure, lost=lost(module))


def _proved(module: nn.Module) -> tuple[dict[str, Any], str | None]:
    """The structure of a module, and in what it is another when it is built again, if it is.

    What was changed after the constructors had run shows when it is built again, and is added.
    """
    places: Places = frozenset()
    while True:
        writer = Writer(places)
        structure = _structure(module, writer)
        try:
            rebuilt = _built(structure, writer.custom, specs_of(module), is_proof=True)
        except (UsageError, DamagedError) as error:
            return structure, str(error)
        found = changes(module, rebuilt)
        if found <= places:
            return structure, difference(module, rebuilt, forgets=writer.forgets)
        places |= found


def _structure(module: nn.Module, writer: Writer) -> dict[str, Any]:
    node = writer.node(module, "")
    return {"module": node, **settings(module), "needs": sorted(writer.custom)}


def build(
    structure: Mapping[str, Any],
    files: Mapping[str, bytes],
    custom_objects: Mapping[str, Any],
    specs: Mapping[str, LeafSpec] | None = None,
) -> nn.Module:
    """The module that `describe` described, without values where that is possible.

    `specs` are those of the leaves that will be put into it: tensors get their dtypes. The
    caller sees to it that the program's random generators stay as they are.

    Raises:
        UnknownClassError: it needs a class that was not passed.
        UsageError: a constructor failed; the message has its reason.
        DamagedError: the structure is none that `describe` makes.
    """
    return _built(structure, custom_objects, specs)


def _built(
    structure: Mapping[str, Any],
    custom_objects: Mapping[str, Any],
    specs: Mapping[str, LeafSpec] | None,
    *,
    is_proof: bool = False,
) -> nn.Module:
    with default_dtype(structure.get("default_dtype")):
        module = _made(structure, custom_objects, specs, is_proof)
    try:
        return settle(module, structure, specs)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise DamagedError(f"the model's structure is malformed: {error!r:.200}") from error


def _made(
    structure: Mapping[str, Any],
    custom_objects: Mapping[str, Any],
    specs: Mapping[str, LeafSpec] | None,
    is_proof: bool,
) -> nn.Module:
    reader = Reader(custom_objects, "meta", specs)
    try:
        module = reader.module(structure["module"], "")
        # Buffers that are shared would be two once they are given values.
        needs = reader.may_need_values and needs_values(module)
        if not (needs or structure.get("shared_buffers")):
            return module
        # What is no part of the file gets no memory: the restore will be refused.
        if not is_proof and not _fits(module, specs):
            return module
    except MilepostError:
        raise
    except Exception as error:  # whatever a class of the user's raises
        if not reader.may_need_values:
            raise _cannot_build(reader, error) from error
    # A class of the user's, or a parametrisation, may compute values that no file has: let it.
    reader = Reader(custom_objects, "cpu", specs)
    try:
        return reader.module(structure["module"], "")
    except MilepostError:
        raise
    except Exception as error:
        raise _cannot_build(reader, error) from error


def _fits(module: nn.Module, specs: Mapping[str, LeafSpec] | None) -> bool:
    """Whether the file has every tensor of a module, in its size."""
    return specs is None or all(
        name in specs and specs[name].shape == spec.shape for name, spec in specs_of(module).items()
    )


def _cannot_build(reader: Reader, error: Exception) -> UsageError:
    return UsageError(
        f"PyTorch {torch.__version__} cannot rebuild the model: its module {reader.at} raises "
        f"{type(error).__name__}: {error}"
    )
