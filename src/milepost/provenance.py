"""What a checkpoint or model file records beside the leaves, and nothing more.

Versions, and what the caller asks for. Nothing about the machine or the person.
"""

from __future__ import annotations

import json
import operator
import sys
from collections.abc import Mapping
from typing import Any

import milepost
from milepost.errors import UsageError

# Packages whose version is recorded, if the program has imported them.
_RECORDED = ("numpy", "keras", "tensorflow", "torch", "jax", "flax", "optax", "equinox")


def versions() -> dict[str, str]:
    """Package -> version, of milepost, Python, and the frameworks in use."""
    found = {"milepost": milepost.__version__, "python": sys.version.split()[0]}
    for name in _RECORDED:
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            found[name] = str(version)
    return found


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as plain numbers: scalars of any framework become int or float.

    Raises:
        UsageError: one is no number.
    """
    result = {}
    for name, value in metrics.items():
        try:
            result[str(name)] = _number(value)
        except (TypeError, ValueError):
            raise UsageError(
                f"the metric {name!r} should be a number, found {value!r:.80}"
            ) from None
    return result


def _number(value: Any) -> float:
    if isinstance(value, str | bytes):
        raise TypeError
    if type(value) is float:
        return value
    try:
        return operator.index(value)
    except TypeError:
        return float(value)


def json_values(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as it will be read back.

    Raises:
        UsageError: a value is none of JSON's.
    """
    try:
        text = json.dumps(dict(metadata), allow_nan=False, ensure_ascii=False).encode()
        decoded = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"the metadata must be JSON values (text, numbers, lists): {error}"
        ) from None
    return dict(decoded)
