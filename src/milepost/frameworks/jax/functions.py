"""Functions as models: `jax.tree_util.Partial(apply, params)`, where `apply` has a name.

The leaves are those of the arguments: `args/0/...` and `keywords/<name>/...`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jax.tree_util import Partial

from milepost.errors import UnsupportedObjectError
from milepost.frameworks.base import ModelParts
from milepost.frameworks.pytrees import program, proof
from milepost.frameworks.pytrees.known import Vocabulary
from milepost.frameworks.pytrees.predict import call, surroundings
from milepost.frameworks.pytrees.reader import Reader
from milepost.frameworks.pytrees.writer import Writer
from milepost.program import Program
from milepost.state import LeafSpec

__all__ = ["build", "describe", "export", "predict", "surroundings"]

_WORDS = Vocabulary("jax")


def describe(model: Any) -> ModelParts:
    """The structure of a function with its parameters.

    Raises:
        UnsupportedObjectError: it is something else, or has no name; the message has the ways out.
    """
    if type(model) is not Partial:
        raise UnsupportedObjectError(
            f"expected a model, found {type(model).__module__}.{type(model).__qualname__}: save a "
            "function and its parameters as jax.tree_util.Partial(apply, params), where apply is "
            "registered with milepost.register, and anything else with Checkpoint(...).save(path)"
        )
    return proof.described(model, lambda: Writer(_WORDS), _describe, _build)


def build(
    structure: Mapping[str, Any],
    assets: Mapping[str, bytes],
    custom: Mapping[str, Any],
    specs: Mapping[str, LeafSpec],
) -> Any:
    """The function with abstract parameters.

    Raises:
        UnknownClassError: the function is neither passed nor registered.
        DamagedError: the structure is none.
    """
    return proof.built(lambda: _build(structure, custom, specs), "JAX")


def predict(model: Any, inputs: Any) -> Any:
    """What the function returns for its parameters and the inputs."""
    return call(model, inputs)


def export(model: Any, inputs: Any, signature: Mapping[str, Any]) -> Program:
    """The function as a StableHLO program."""
    return program.export(
        program.named_arrays(model),
        lambda arrays: program.with_arrays(model, arrays),
        inputs,
        signature,
    )


def _describe(model: Any, writer: Writer) -> dict[str, Any]:
    return writer.partial(model, "")


def _build(
    structure: Mapping[str, Any], custom: Mapping[str, Any], specs: Mapping[str, LeafSpec]
) -> Any:
    return Reader(_WORDS, custom, specs).partial(structure, "")
