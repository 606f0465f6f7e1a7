"""Examples: what a model made of some inputs when it was saved, and makes of them now."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from milepost import dtypes, frameworks, provenance, tree
from milepost.dtypes import Array
from milepost.errors import (
    DifferentPredictionError,
    MilepostError,
    UnsupportedObjectError,
    UsageError,
)
from milepost.formats.example import INPUTS, OUTPUTS, Example
from milepost.frameworks.base import capture_objects
from milepost.state import LeafSpec, Plain, is_array

# What the same computation in another version, or on another device, may differ by, as a share
# of the largest output: some hundred times the dtype's own precision.
_TOLERANCES = {"float64": 1e-9, "complex128": 1e-9, "float32": 1e-4, "complex64": 1e-4}
_LOW_PRECISION = 3e-2

# Packages whose versions decide which instructions compute a prediction.
_COMPUTES = ("tensorflow", "torch", "jax", "keras", "flax", "equinox", "transformers")


def make_example(framework: Any, model: Any, inputs: Any, tolerance: float | None) -> Example:
    """Predict, and keep what went in and what came out.

    Raises:
        UnsupportedObjectError: something of it is neither an array nor a plain value.
        UsageError: the model raises an error with it.
    """
    before = _captured({INPUTS: inputs})
    try:
        outputs = framework.predict(model, inputs)
    except MilepostError:
        raise
    except Exception as error:  # whatever a model raises
        raise UsageError(
            f"the model does not take the example: {type(error).__name__}: {error}\nA tuple is "
            "several arguments, a dict arguments by name (to a Keras model, its inputs by name)"
        ) from error
    after = _captured({OUTPUTS: outputs})
    leaves = {
        name: np.array(leaf) if is_array(leaf) else leaf
        for name, leaf in {**before.leaves, **after.leaves}.items()
    }
    if tolerance is None:
        made = [leaf for name, leaf in leaves.items() if name in after.leaves]
        tolerance = max((_tolerance(leaf) for leaf in made), default=0.0)
    return Example(
        before.objects[INPUTS].structure,
        after.objects[OUTPUTS].structure,
        leaves,
        framework.surroundings(model),
        tolerance,
    )


def _captured(objects: dict[str, Any]) -> Any:
    try:
        return capture_objects(objects, frameworks.finder())
    except UnsupportedObjectError as error:
        raise UnsupportedObjectError(f"the example's {error}") from None


def _tolerance(leaf: Plain | Array) -> float:
    if not isinstance(leaf, np.ndarray) or leaf.dtype.kind in "biu":
        return 0.0
    return _TOLERANCES.get(dtypes.dtype_name(leaf.dtype), _LOW_PRECISION)


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
    found = _captured({OUTPUTS: framework.predict(model, rebuilt(example, INPUTS))}).leaves
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


def rebuilt(example: Example, kind: str) -> Any:
    """The inputs or outputs of an example, as they were given: arrays of their frameworks."""
    makers = frameworks.makers()

    def leaf(name: str, node: Any) -> Any:
        value = example.leaves[name]
        make = makers.get(node["leaf"]) if node else None
        return make(np.array(value)) if make and isinstance(value, np.ndarray) else value

    return tree.build(example.inputs if kind == INPUTS else example.outputs, kind, leaf)


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


def signature(framework: Any, model: Any, example: Example) -> dict[str, list[dict[str, Any]]]:
    """The inputs and outputs of a model, by name; a size that may vary is None.

    Which sizes may vary is found out by trying: the example's rows once more, and what has
    grown with them.
    """
    given = {kind: dict(example.arrays(kind)) for kind in (INPUTS, OUTPUTS)}
    grown = _with_more_rows(framework, model, example) or given
    return {
        kind: [_described(kind, name, leaf, grown[kind][name]) for name, leaf in leaves.items()]
        for kind, leaves in given.items()
    }


def _with_more_rows(framework: Any, model: Any, example: Example) -> dict[str, Any] | None:
    """Inputs with every row twice, and what the model makes of them; None if it will not."""
    arrays = {n: v for n, v in example.arrays(INPUTS) if isinstance(v, np.ndarray) and v.ndim}
    if len({len(v) for v in arrays.values()}) != 1:
        return None
    doubled = {name: np.concatenate([value, value]) for name, value in arrays.items()}
    more = Example(
        example.inputs, example.outputs, {**example.leaves, **doubled}, {}, example.tolerance
    )
    try:
        outputs = _captured({OUTPUTS: framework.predict(model, rebuilt(more, INPUTS))}).leaves
    except Exception:  # whatever a model raises that takes one number of rows only
        return None
    if outputs.keys() != dict(example.arrays(OUTPUTS)).keys():
        return None
    made = dict(example.arrays(OUTPUTS))
    ranks = [(v.ndim, np.ndim(outputs[n])) for n, v in made.items() if isinstance(v, np.ndarray)]
    if any(before != after for before, after in ranks):
        return None
    return {INPUTS: dict(more.arrays(INPUTS)), OUTPUTS: outputs}


def _described(kind: str, name: str, leaf: Any, grown: Any) -> dict[str, Any]:
    short = name.removeprefix(kind).removeprefix("/") or kind.removesuffix("s")
    if not isinstance(leaf, np.ndarray):
        return {"name": short, "dtype": type(leaf).__name__, "shape": None}
    spec = LeafSpec(dtypes.dtype_name(leaf.dtype), leaf.shape)
    shape = [n if n == m else None for n, m in zip(leaf.shape, np.shape(grown), strict=True)]
    return {"name": short, "dtype": spec.dtype, "shape": shape}
