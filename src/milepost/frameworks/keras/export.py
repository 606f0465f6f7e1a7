"""A Keras model as a portable program: an ONNX graph, or StableHLO on the JAX backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import keras
from milepost.errors import UnsupportedObjectError
from milepost.frameworks.keras import naming
from milepost.frameworks.keras.predict import not_training, predict
from milepost.frameworks.programs import Interface, Leaves, exporting
from milepost.program import Program
from milepost.state import spec_of


def export(model: keras.Model, inputs: Any, signature: Mapping[str, Any]) -> Program:
    """What a model computes when it predicts.

    Raises:
        UnsupportedObjectError: the exporter cannot follow it.
        MissingPackageError: a package is missing that makes such programs.
    """
    interface = Interface.of(inputs, predict(model, inputs))
    backend = keras.backend.backend()
    with exporting("tf2onnx", "torch.onnx", "tensorflow"):
        if backend == "torch":
            from milepost.frameworks import onnx

            def call(given: Any) -> Any:
                return model(given, **not_training(model))

            return onnx.from_torch(model, call, interface, signature, Leaves(model))
        if backend == "tensorflow":
            return _from_tensorflow(_Stateless(model), interface, signature)
        if backend == "jax":
            return _from_jax(_Stateless(model), inputs, signature)
    raise UnsupportedObjectError(
        f"the {backend} backend makes no programs: load the model on another, and save it there"
    )


class _Stateless:
    """A model as a function of its leaves and its inputs."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._variables = naming.layer_variables(
            model, "layers" if isinstance(model, keras.Model) else ""
        )
        found = Leaves(model).by_name
        self.leaves = {name: found[name] for name in self._variables if name in found}

    def call(self, weights: Mapping[str, Any], inputs: Any) -> Any:
        variables = [(self._variables[name], weight) for name, weight in weights.items()]
        # Counters are wider in a state than some backends have them.
        cast = [(variable, keras.ops.cast(w, variable.dtype)) for variable, w in variables]
        with keras.StatelessScope(state_mapping=cast):
            return self._model(inputs, **not_training(self._model))


def _from_tensorflow(
    model: _Stateless, interface: Interface, signature: Mapping[str, Any]
) -> Program:
    import tensorflow as tf
    import tf2onnx

    from milepost.frameworks import onnx

    specs = [spec_of(leaf) for leaf in model.leaves.values()]
    # Weights are arguments, so that no constant is computed from them.
    weights = [tf.TensorSpec(s.shape, s.dtype, name=f"leaf_{i}") for i, s in enumerate(specs)]
    described = [entry for entry in signature["inputs"] if entry["shape"] is not None]
    arrays = [
        tf.TensorSpec(entry["shape"], entry["dtype"], name=name)
        for entry, name in zip(described, interface.input_names(), strict=True)
    ]

    def flat(*given: Any) -> Any:
        leaves = dict(zip(model.leaves, given, strict=False))
        return interface.flat(model.call(leaves, interface.nested(given[len(weights) :])))

    everything = [*weights, *arrays]
    function = tf.function(flat, input_signature=everything, autograph=False)
    graph, _ = tf2onnx.convert.from_function(function, input_signature=everything, opset=onnx.OPSET)
    names = {spec.name: leaf for spec, leaf in zip(weights, model.leaves, strict=True)}
    # Tensors that layers made of their leaves before, which the exporter makes inputs.
    captured = function.get_concrete_function().graph.captures
    constants = {
        inner.name: outer.numpy() for outer, inner in captured if outer.dtype != tf.resource
    }
    return onnx.program(graph, names, interface, constants)


def _from_jax(model: _Stateless, inputs: Any, signature: Mapping[str, Any]) -> Program:
    from milepost.frameworks.pytrees import program

    def function(weights: Mapping[str, Any]) -> Any:
        return lambda *given, **named: model.call(
            weights, named or (given if isinstance(inputs, tuple) else given[0])
        )

    return program.export(
        {name: np.asarray(leaf) for name, leaf in model.leaves.items()}, function, inputs, signature
    )
