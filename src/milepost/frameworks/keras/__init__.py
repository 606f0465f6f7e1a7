"""Keras 3, on every backend: models, layers, optimizers, metrics, variables and seeds.

The leaves of a model:

    layers/dense/kernel               variables, under their layers
    layers/dropout/seed_generator     the state of dropout and other random layers
    optimizer/iteration               the optimizer, if the model is compiled
    optimizer/layers/dense/kernel/momentum
    metrics/loss/total                metrics: a restore takes them where both sides have them
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

import keras
from milepost import dtypes
from milepost.dtypes import Array
from milepost.errors import DamagedError, UnsupportedObjectError
from milepost.frameworks.base import Capture, Saved
from milepost.frameworks.keras import naming, optimizers, tensors
from milepost.frameworks.keras.export import export
from milepost.frameworks.keras.other_names import file_paths, graph_paths, own_paths
from milepost.frameworks.keras.predict import predict, surroundings
from milepost.frameworks.keras.structure import build, describe
from milepost.state import Rule, join
from milepost.tree import Structure

__all__ = [
    "apply",
    "build",
    "capture",
    "describe",
    "export",
    "global_generators",
    "handles",
    "other_names",
    "parameter_names",
    "predict",
    "prepare",
    "surroundings",
]

# Backends disagree on these (JAX has no int64 by default, PyTorch no uint32 arithmetic), so
# counters and seeds are always int64 in a state: then any backend restores any other's.
_COUNTERS = ("int32", "uint32", "int64", "uint64")


def handles(value: Any) -> bool:
    return isinstance(
        value,
        keras.Layer
        | keras.optimizers.Optimizer
        | keras.Variable
        | keras.metrics.Metric
        | keras.random.SeedGenerator,
    )


def capture(value: Any, name: str, capture: Capture) -> Structure:
    _attach_state(value)
    if isinstance(value, keras.Layer):
        if not value.built and not value.variables:
            raise UnsupportedObjectError(
                f"{name} is not built yet and has no variables: build() it, or call it on a batch"
            )
        capture.configure(name, _build_config(value))
    for key, variable in _variables(value, name, capture.parameter_names()).items():
        memory = ("keras", id(variable))
        capture.leaf(key, VariableLeaf(key, variable), memory=memory, late=True)
    if isinstance(value, keras.Model):
        # A metric's variables come into being with the first batch, and `fit` resets them
        # at every epoch: neither side need have them.
        capture.rule(join(name, "metrics"), Rule.KEEPS | Rule.IGNORES)
    return None


def apply(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    _attach_state(value)
    for key, variable in _variables(value, name, saved.parameter_names()).items():
        if saved.has(key):
            into = None if variable.dtype in _COUNTERS else tensors.memory(variable)
            saved.place(key, partial(_assign, key, variable), into)
            if into is not None:
                saved.later(tensors.count_change, variable)
    if isinstance(value, keras.Layer):
        for _, layer in naming.layers_by_path(value):
            if isinstance(layer, keras.layers.Normalization):
                saved.later(layer.finalize_state)  # it keeps tensors computed from its variables
    return value


def _assign(key: str, variable: Any, array: Array) -> None:
    tensors.assign(variable, _cast(key, array, variable.dtype))


def prepare(
    value: Any,
    name: str,
    config: Mapping[str, Any],
    names: Iterable[str],
    objects: Mapping[str, Any],
) -> None:
    """Build a model and its optimizer, so that a snapshot's leaves have somewhere to go."""
    if isinstance(value, keras.Layer) and not value.built and config.get("build"):
        value.build_from_config(_tuples(config["build"]))
    saved_names = set(names)
    for key, optimizer in _optimizers(value, name):
        variables: dict[str, keras.Variable] = {}
        for other_name, other in {**objects, name: value}.items():
            if isinstance(other, keras.Model):
                variables |= _optimizer_targets(other, other_name, inside=other is value)
        with tensors.untouched_zeros():
            optimizers.build_like(optimizer, key, saved_names, variables)


def parameter_names(value: Any, name: str) -> dict[int, str]:
    if not isinstance(value, keras.Layer):
        return {}
    names = {}
    for key, variable in _layer_variables(value, name).items():
        names[id(variable)] = key
        # With the PyTorch backend, a torch optimizer holds the tensor itself.
        names[id(variable.value)] = key
    return names


def other_names(value: Any, name: str) -> dict[str, list[str]]:
    found = _variables(value, name, parameter_names(value, name))
    ways = [file_paths(value), graph_paths(value), own_paths(found)]
    return {
        key: [path for paths in ways for path in paths.get(id(variable), ())]
        for key, variable in found.items()
    }


def global_generators(wanted: frozenset[str]) -> dict[str, Any]:
    """The generator of `keras.random` and unseeded layers, if made or wanted."""
    from keras.src.backend.common import global_state
    from keras.src.random import seed_generator

    made = global_state.get_global_attribute(seed_generator.GLOBAL_SEED_GENERATOR)
    if made is None and "keras" in wanted:
        made = seed_generator.global_seed_generator()
    return {} if made is None else {"keras": made}


class VariableLeaf:
    """A Keras variable as a leaf."""

    def __init__(self, name: str, variable: keras.Variable) -> None:
        self._variable = variable
        dtype = "int64" if variable.dtype in _COUNTERS else variable.dtype
        try:
            self.dtype: np.dtype[Any] = dtypes.numpy_dtype(dtype)
        except KeyError:
            raise UnsupportedObjectError(
                f"{name} has the dtype {variable.dtype}, which is not numeric"
            ) from None
        self.shape: tuple[int, ...] = tuple(variable.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return _on_host(self._variable.value).astype(self.dtype, copy=False)


def _on_host(value: Any) -> Array:
    """The value of a variable as an array, over the same memory where the backend lets us.

    `keras.ops.convert_to_numpy` copies, on TensorFlow twice.
    """
    backend = keras.backend.backend()
    with contextlib.suppress(TypeError, ValueError):  # a dtype that has no such view: bfloat16
        if backend == "tensorflow":
            return np.asarray(memoryview(value.value()))
        if backend == "torch":
            return np.asarray(value.detach().cpu().numpy())
        if backend == "jax":
            return np.asarray(value)
    return np.asarray(keras.ops.convert_to_numpy(value))


def _attach_state(value: Any) -> None:
    """In the midst of `fit` on the JAX backend, a model's variables lie elsewhere: fetch them."""
    if hasattr(value, "jax_state_sync"):
        value.jax_state_sync()


def _variables(value: Any, name: str, names: Mapping[int, str]) -> dict[str, keras.Variable]:
    """Every variable of an object of Keras, by name."""
    if isinstance(value, keras.Variable):
        return {name: value}
    if isinstance(value, keras.random.SeedGenerator):
        return {name: value.state}
    if isinstance(value, keras.metrics.Metric):
        found: dict[str, keras.Variable] = {}
        naming.add_variables(value.variables, name, found, set())
        return found
    if isinstance(value, keras.optimizers.Optimizer):
        return optimizers.optimizer_variables(value, name, names)
    found = _layer_variables(value, name)
    if isinstance(value, keras.Model):
        inside = {id(variable): key.removeprefix(f"{name}/") for key, variable in found.items()}
        for key, optimizer in _optimizers(value, name):
            # A whole model, which has no name, is without slots that nothing can use again.
            found |= optimizers.optimizer_variables(optimizer, key, inside, strangers=bool(name))
        _add_metrics(value, join(name, "metrics"), found)
    return found


def _layer_variables(layer: keras.Layer, name: str) -> dict[str, keras.Variable]:
    return naming.layer_variables(
        layer, join(name, "layers") if isinstance(layer, keras.Model) else name
    )


def _optimizer_targets(model: keras.Model, name: str, *, inside: bool) -> dict[str, keras.Variable]:
    """The variables that an optimizer may have slots for, as it calls them."""
    trainable = {id(v) for layer in model._flatten_layers() for v in layer._trainable_variables}
    return {
        key.removeprefix(f"{name}/") if inside else key: variable
        for key, variable in _layer_variables(model, name).items()
        if id(variable) in trainable
    }


def _optimizers(value: Any, name: str) -> list[tuple[str, Any]]:
    """The optimizers of a model: the compiled one, and those it holds as attributes."""
    if isinstance(value, keras.optimizers.Optimizer):
        return [(name, value)]
    if not isinstance(value, keras.Model):
        return []
    compiled = getattr(value, "optimizer", None)
    found = [] if compiled is None else [(join(name, "optimizer"), compiled)]
    for attribute, part in vars(value).items():
        if isinstance(part, keras.optimizers.Optimizer) and part is not compiled:
            found.append((join(name, attribute.strip("_")), part))
    return found


def _add_metrics(model: keras.Model, name: str, found: dict[str, keras.Variable]) -> None:
    """The metrics that `compile` made: the loss, and each by its own name."""
    seen = {id(variable) for variable in found.values()}
    flat: list[Any] = []
    for metric in model._get_own_metrics() if model.compiled else ():
        flat += getattr(metric, "metrics", None) or [metric]
    for key, metric in zip(naming.stable_names(flat), flat, strict=True):
        naming.add_variables(metric.variables, join(name, key), found, seen)


def _build_config(layer: keras.Layer) -> dict[str, Any]:
    config = layer.get_build_config()
    return {"build": config} if config else {}


def _tuples(value: Any) -> Any:
    """Shapes are tuples to Keras and lists to JSON."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value


def _cast(name: str, value: Any, dtype: str) -> Any:
    """A leaf as its variable's dtype, which only counters and seeds may differ from."""
    array = np.asarray(value)
    cast = array.astype(dtypes.numpy_dtype(dtype), copy=False)
    if array.dtype.kind in "iu" and not np.array_equal(cast, array):
        raise DamagedError(
            f"{name}: the value {array} does not fit the dtype {dtype} of this backend"
        )
    return cast
