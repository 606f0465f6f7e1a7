"""What a Keras file says of its model: its structure as JSON, and the versions that wrote it.

https://github.com/keras-team/keras/blob/master/keras/src/saving/saving_lib.py
https://github.com/keras-team/keras/blob/master/keras/src/legacy/saving/legacy_h5_format.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from milepost.errors import DamagedError
from milepost.record import Record
from milepost.snapshot import Description, Snapshot
from milepost.source import ByteSource

# Some ten times the structure of the largest models of keras.applications. What Python makes of
# a hostile text is many times its size, and worst of all with lists in it.
_MAX_BYTES, _MAX_BRACKETS = 16 << 20, 500_000

Attributes: TypeAlias = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class KerasStructure:
    """
    Attributes:
        layout: how weights are found in it: `"vars"` by the way to each layer, as Keras 3 does;
            `"legacy"` by the order of the layers and their weights.
        config: of the model; None in a file of weights alone.
        training: of its compilation, as a file of the old layout has it.
        version: of the Keras that wrote it; empty where it is not told.
        backend: that it ran on, if it is told.
        assets: the files of layers, by their paths, each to be read.
    """

    layout: str
    config: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    version: str = ""
    backend: str = ""
    assets: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)


class KerasSnapshot(Snapshot):
    """The weights of a Keras file, with the structure of the model if it is there.

    `attributes` are those of an HDF5 file, by path.
    """

    def __init__(
        self,
        name: str,
        records: Mapping[str, Record],
        files: Sequence[ByteSource],
        description: Description,
        *,
        structure: KerasStructure,
        attributes: Attributes,
    ) -> None:
        super().__init__(name, records, files, description)
        self.structure = structure
        self.attributes = attributes

    def facts(self) -> dict[str, Any]:
        structure = self.structure
        config = structure.config or {}
        told = {
            "framework": "keras",
            "keras": structure.version,
            "backend": structure.backend,
            "class": config.get("class_name"),
            "layers": _count_layers(config.get("config")),
            "compiled": bool(structure.training or config.get("compile_config")),
            "assets": list(structure.assets),
        }
        return super().facts() | {key: value for key, value in told.items() if value}


def _count_layers(config: Any) -> int:
    """The layers that a model's configuration lists; Keras 1 had nothing else in it."""
    layers = config.get("layers") if isinstance(config, dict) else config
    return len(layers) if isinstance(layers, list) else 0


def kind_of(names: Collection[str], attributes: Attributes) -> str | None:
    """What Keras calls an HDF5 file, or None if it is not one of Keras's."""
    root = attributes.get("", {})
    if "model_config" in root or "layer_names" in attributes.get("model_weights", {}):
        return "Keras HDF5 model"
    if "layer_names" in root or "layer_names0" in root:
        return "Keras HDF5 weights"
    if names and all("vars" in name.split("/")[-2:-1] for name in names):
        return "Keras weights"
    return None


def legacy_structure(name: str, attributes: Attributes) -> KerasStructure:
    """The structure in the attributes of an HDF5 file, which may have none."""
    root = attributes.get("", {})
    group = root if "keras_version" in root else attributes.get("model_weights", {})
    legacy = kind_of((), attributes) is not None
    return KerasStructure(
        "legacy" if legacy else "vars",
        _object(name, root, "model_config"),
        _object(name, root, "training_config"),
        _text(group.get("keras_version")),
        _text(group.get("backend")),
    )


def _object(name: str, attributes: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    text = attributes.get(key)
    return None if text is None else read_json(f"{name}, attribute {key!r}", text)


def _text(value: Any) -> str:
    return value[:80] if isinstance(value, str) else ""


def read_json(name: str, text: str | bytes) -> dict[str, Any]:
    """A JSON object, with limits.

    Raises:
        DamagedError: it is none, or far too large, or says something twice.
    """
    try:
        data = text.encode() if isinstance(text, str) else bytes(text)
        if len(data) > _MAX_BYTES or data.count(b"[") + data.count(b"{") > _MAX_BRACKETS:
            raise ValueError("it is too large to describe a model")
        found = json.loads(data, object_pairs_hook=_without_duplicates)
        if not isinstance(found, dict):
            raise ValueError("it is not an object")  # noqa: TRY004
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedError(f"{name} is no JSON of Keras's: {error}") from None
    return found


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    return result
