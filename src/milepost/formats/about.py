"""What a model file tells its readers, checked: nothing of it is trusted to be what it should."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from milepost import record
from milepost.errors import DamagedError
from milepost.limits import is_size, shown

_TEXTS = ("license", "notes")


def encode_about(about: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of a model, as JSON."""
    metrics = {key: record.encode_plain(item) for key, item in about.get("metrics", {}).items()}
    return {**about, "metrics": metrics} if metrics else dict(about)


def decode_about(value: Any) -> dict[str, Any]:
    """`labels`, `metrics`, `step`, `license` and `notes`, where they are what they should be.

    Raises:
        DamagedError: one is not.
    """
    found = dict(_mapping("about", value))
    if "metrics" in found:
        metrics = _mapping("metrics", found["metrics"])
        found["metrics"] = {key: record.decode_plain(item) for key, item in metrics.items()}
    for key, item in found.items():
        sound = (
            (key == "labels" and _is_list_of(str, item))
            or (key == "metrics" and all(type(v) in (int, float) for v in item.values()))
            or (key == "step" and type(item) is int)
            or (key in _TEXTS and isinstance(item, str))
        )
        if not sound:
            raise DamagedError(f"it says of its {key!r:.40}: {shown(item)}")
    return found


def checked_signature(value: Any) -> dict[str, Any]:
    """`inputs` and `outputs`, each a list of names, dtypes and shapes.

    Raises:
        DamagedError: it is something else.
    """
    found = _mapping("signature", value)
    for kind, items in found.items():
        if kind not in ("inputs", "outputs") or not _is_list_of(dict, items):
            raise DamagedError(f"its signature has {kind!r:.40}: {shown(items)}")
        for item in items:
            if item.keys() != {"name", "dtype", "shape"} or not _is_described(**item):
                raise DamagedError(f"its signature has among the {kind}: {shown(item)}")
    return found


def _is_described(name: Any, dtype: Any, shape: Any) -> bool:
    sizes = shape is None or (
        isinstance(shape, list) and all(size is None or is_size(size) for size in shape)
    )
    return isinstance(name, str) and isinstance(dtype, str) and sizes


def _is_list_of(kind: type, value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DamagedError(f"its {name} is no mapping: {shown(value)}")
    return value
