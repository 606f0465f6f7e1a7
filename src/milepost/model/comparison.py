"""Comparing predictions: does a model make of its example what it made when it was saved?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from milepost import provenance
from milepost.dtypes import Array
from milepost.errors import DifferentPredictionError
from milepost.formats.example import INPUTS, OUTPUTS, Example
from milepost.model.example import captured, rebuilt

# Packages whose versions decide which instructions compute a prediction.
_COMPUTES = ("tensorflow", "torch", "jax", "keras", "flax", "equinox", "transformers")


@dataclass(frozen=True, slots=True)
class Replay:
    """What became of an example when it was computed again.

    Attributes:
        difference: the largest, as a share of the largest output; 0 if every bit is the same.
        tolerance: the largest that is as it should be here.
        reason: why that is not 0: what is another than when the model was saved.
    """

    difference: float
    tolerance: float
    reason: str

    def __str__(self) -> str:
        found = "equal to the last bit" if self.difference == 0 else f"off by {self.difference:.2g}"
        because = f" ({self.reason})" if self.reason else ""
        return f"{found}, tolerance {self.tolerance:.2g}{because}"


def predict_again(
    framework: Any,
    model: Any,
    example: Example,
    versions: Mapping[str, str],
    name: str,
    *,
    close: bool = False,
) -> Replay:
    """Predict on the example once more, and compare; `close` grants the tolerance anyway.

    Raises:
        DifferentPredictionError: it is further off than the tolerance; the message names the
            output.
    """
    found = captured({OUTPUTS: framework.predict(model, rebuilt(example, INPUTS))}).leaves
    reason = _changes(versions, example.surroundings, framework.surroundings(model))
    reason = reason or ("asked for" if close else "")
    return compare(example, found, name, reason)


def compare(example: Example, found: Mapping[str, Any], name: str, reason: str) -> Replay:
    """Compare outputs with those of the example; the same versions and device must agree exactly.

    Raises:
        DifferentPredictionError: they are too far off.
    """
    tolerance = example.tolerance if reason else 0.0
    expected = dict(example.arrays(OUTPUTS))
    if found.keys() != expected.keys():
        raise DifferentPredictionError(
            f"{name} predicts differently: expected the outputs {sorted(expected)}, found "
            f"{sorted(found)}"
        )
    worst = 0.0
    for leaf, value in expected.items():
        difference = _difference(value, found[leaf])
        if not difference <= tolerance:
            raise DifferentPredictionError(
                f"{name} predicts differently: {leaf} is off by {difference:.2g} of the largest "
                f"expected value, where {tolerance:.2g} is allowed"
                + (f" ({reason})" if reason else _SAME)
            )
        worst = max(worst, difference)
    return Replay(worst, tolerance, reason)


_SAME = (
    " on the framework, version and device that saved it. Another kind of CPU can do that "
    "in the last digits (replay='close' allows it); anything else means that the model is not "
    "what it was"
)


def is_close(expected: Array, found: Array, tolerance: float) -> bool:
    """Whether the largest difference, as a share of the largest value, is within a tolerance."""
    return _difference(expected, found) <= tolerance


def _difference(expected: Any, found: Any) -> float:
    """The largest difference, as a share of the largest expected value."""
    if not isinstance(expected, np.ndarray):
        return 0.0 if expected == found else math.inf
    array = np.asarray(found)
    if array.dtype != expected.dtype or array.shape != expected.shape:
        return math.inf
    if array.tobytes() == expected.tobytes():
        return 0.0
    wide: Any = complex if expected.dtype.kind == "c" else float
    a, b = expected.astype(wide), array.astype(wide)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(a - b))
    if not np.isfinite(apart).all():
        return math.inf
    finite = np.abs(a[np.isfinite(a)])
    largest = float(finite.max()) if finite.size else 0.0
    # Zeros of another sign have other bits, and count as different by the least there is.
    return max(float(apart.max()) / max(largest, 1e-30), 5e-324)


def _changes(versions: Mapping[str, str], before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What is another than when the model was saved, on which its predictions' bits depend."""
    current = provenance.versions()
    found = [
        f"{package} {versions[package]} then, {current.get(package, 'none')} now"
        for package in _COMPUTES
        if package in versions and versions[package] != current.get(package, versions[package])
    ]
    found += [
        f"{key} {before.get(key)} then, {now.get(key)} now"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    return "; ".join(found)
