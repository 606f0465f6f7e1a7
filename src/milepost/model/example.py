"""Making an example: what a model makes of some inputs; and the signature that shows in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from milepost import dtypes, frameworks, tree
from milepost.dtypes import Array
from milepost.errors import MilepostError, UnsupportedObjectError, UsageError
from milepost.formats.example import INPUTS, OUTPUTS, Example
from milepost.frameworks.base import capture_objects
from milepost.state import LeafSpec, Plain, is_array

# What the same computation in another version, or on another device, may differ by, as a share
# of the largest output: some hundred times the dtype's own precision.
_TOLERANCES = {"float64": 1e-9, "complex128": 1e-9, "float32": 1e-4, "complex64": 1e-4}
_LOW_PRECISION = 3e-2


def make_example(framework: Any, model: Any, inputs: Any, tolerance: float | None) -> Example:
    """Predict, and keep what went in and what came out.

    Raises:
        UnsupportedObjectError: something of it is neither an array nor a plain value.
        UsageError: the model raises an error with it.
    """
    before = captured({INPUTS: inputs})
    try:
        outputs = framework.predict(model, inputs)
    except MilepostError:
        raise
    except Exception as error:  # whatever a model raises
        raise UsageError(
            f"the model does not take the example: {type(error).__name__}: {error}\nA tuple is "
            "several arguments, a dict arguments by name (to a Keras model, its inputs by name)"
        ) from error
    after = captured({OUTPUTS: outputs})
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


def captured(objects: dict[str, Any]) -> Any:
    try:
        return capture_objects(objects, frameworks.finder())
    except UnsupportedObjectError as error:
        raise UnsupportedObjectError(f"the example's {error}") from None


def _tolerance(leaf: Plain | Array) -> float:
    if not isinstance(leaf, np.ndarray) or leaf.dtype.kind in "biu":
        return 0.0
    return _TOLERANCES.get(dtypes.dtype_name(leaf.dtype), _LOW_PRECISION)


def rebuilt(example: Example, kind: str) -> Any:
    """The inputs or outputs of an example, as they were given: arrays of their frameworks."""
    makers = frameworks.makers()

    def leaf(name: str, node: Any) -> Any:
        value = example.leaves[name]
        make = makers.get(node["leaf"]) if node else None
        return make(np.array(value)) if make and isinstance(value, np.ndarray) else value

    return tree.build(example.inputs if kind == INPUTS else example.outputs, kind, leaf)


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
        outputs = captured({OUTPUTS: framework.predict(model, rebuilt(more, INPUTS))}).leaves
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
