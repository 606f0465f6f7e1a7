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
from milepost.limits import is_writable, shown

# Packages whose version is recorded, if the program has imported them.
_RECORDED = (
    *("numpy", "keras", "tensorflow", "torch", "transformers"),
    *("jax", "flax", "optax", "equinox"),
)


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
        UsageError: one is no number, or none that fits a float.
    """
    if not isinstance(metrics, Mapping):
        raise UsageError(f"the metrics must be a mapping to numbers, found {shown(metrics)}")
    result = {}
    for name, value in metrics.items():
        if not is_writable(str(name)):
            raise UsageError(f"the metric {name!r} has a name that is no text")
        try:
            result[str(name)] = _number(value)
        except (TypeError, ValueError, RuntimeError):
            raise UsageError(
                f"the metric {name!r} should be a number, found {shown(value)}"
            ) from None
        except OverflowError:
            raise UsageError(
                f"the metric {name!r} should be a number that fits a float, found {shown(value)}"
            ) from None
    return result


def _number(value: Any) -> float:
    if isinstance(value, str | bytes):
        raise TypeError
    if type(value) is float:
        return value
    try:
        whole = operator.index(value)
    except TypeError:
        return float(value)
    float(whole)  # others read it as a double
    return whole


def json_values(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as it will be read back.

    Raises:
        UsageError: a value is none of JSON's.
    """
    try:
        if not isinstance(metadata, Mapping):
            raise TypeError(f"expected a mapping of them, found {shown(metadata)}")
        text = json.dumps(dict(metadata), allow_nan=False, ensure_ascii=False).encode()
        decoded = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"the metadata must be JSON values (text, numbers, lists): {error}"
        ) from None
    return dict(decoded)
