"""A JAX model as a portable program: StableHLO, by `jax.export`.

Its arguments are the weights, in the order of `Program.weights`, and then the inputs; its
result is the list of the outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from milepost.errors import MissingPackageError, UnsupportedObjectError
from milepost.frameworks import pytrees
from milepost.frameworks.pytrees.predict import call
from milepost.program import Program
from milepost.state import join

_PLATFORMS = ("cpu", "cuda", "tpu")

# A model as a function of its arrays, by the names of their leaves.
Function = Callable[[Mapping[str, Any]], Callable[..., Any]]


def export(
    arrays: Mapping[str, Any], model: Function, inputs: Any, signature: Mapping[str, Any]
) -> Program:
    """The program of a model whose arrays are arguments.

    Its number of rows is as free as the signature says, and it runs on every platform, as far
    as JAX can do that for what the model computes.

    Raises:
        UnsupportedObjectError: JAX cannot export it; the message has its reason.
        MissingPackageError: what JAX writes programs with is not installed.
    """
    try:
        import flatbuffers  # type: ignore[import-untyped]  # noqa: F401
        import jax.export
    except ImportError as error:
        raise MissingPackageError(f"{error}: pip install jax flatbuffers") from error
    weights = _unkeyed(arrays)
    values, structure = jax.tree.flatten(inputs)
    described = {item["name"]: item for item in signature["inputs"]}
    names = _names(inputs, "input")
    places = {
        name: place for place, name in enumerate(names) if described[name]["shape"] is not None
    }
    wanted = [item["name"] for item in signature["outputs"] if item["shape"] is not None]
    given = [name for name in described if name in places]

    def program(*arguments: Any) -> list[Any]:
        now = list(values)
        for name, value in zip(given, arguments[len(weights) :], strict=True):
            now[places[name]] = value
        function = model(_keyed(arrays, dict(zip(weights, arguments, strict=False))))
        outputs = call(function, jax.tree.unflatten(structure, now))
        found = dict(zip(_names(outputs, "output"), jax.tree.leaves(outputs), strict=True))
        return [found[name] for name in wanted]

    fixed = [pytrees.struct(np.shape(array), array.dtype) for array in weights.values()]
    examples = [_as_jax_has_it(values[places[name]]) for name in given]
    free = _free(examples, [described[name]["shape"] for name in given])
    exported = _exported(program, [[*fixed, *free], [*fixed, *examples]])
    return Program(
        "stablehlo",
        bytes(exported.serialize()),
        {f"weight{i:06d}": name for i, name in enumerate(weights)},
        tuple(given),
        tuple(wanted),
    )


def named_arrays(tree: Any) -> dict[str, Any]:
    """The arrays of a pytree by the names that their leaves have."""
    return {name: leaf for name, leaf in pytrees.named_leaves(tree) if _is_array(leaf)}


def with_arrays(tree: Any, arrays: Mapping[str, Any]) -> Any:
    """A pytree like another, with other arrays."""
    leaves = [arrays.get(name, leaf) for name, leaf in pytrees.named_leaves(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _exported(program: Callable[..., Any], wishes: list[list[Any]]) -> Any:
    """The first that works: any number of rows before one, every platform before this one."""
    error: Exception | None = None
    for arguments in wishes:
        for platforms in (_PLATFORMS, None):
            try:
                with _without_places():
                    return jax.export.export(jax.jit(program), platforms=platforms)(*arguments)
            except Exception as problem:  # whatever JAX and the model raise
                error = problem
    raise UnsupportedObjectError(
        f"JAX cannot export the model as a program: {type(error).__name__}: {error}. Save it "
        "without program=True"
    ) from error


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """No names of files in the program: JAX writes down where each operation was called."""
    config: Any = jax.config
    before = config.jax_hlo_source_file_canonicalization_regex
    try:
        config.update("jax_hlo_source_file_canonicalization_regex", ".*")
        yield
    finally:
        config.update("jax_hlo_source_file_canonicalization_regex", before)


def _free(arrays: list[Any], shapes: list[list[int | None]]) -> list[Any]:
    """Arrays without values, whose number of rows is open where it is None."""
    scope = jax.export.SymbolicScope()
    texts = [",".join("rows" if n is None else str(n) for n in shape) for shape in shapes]
    return [
        pytrees.struct(jax.export.symbolic_shape(text, scope=scope) if text else (), array.dtype)
        for array, text in zip(arrays, texts, strict=True)
    ]


def _as_jax_has_it(array: Any) -> Any:
    return pytrees.struct(np.shape(array), jax.dtypes.canonicalize_dtype(array.dtype))


def _names(values: Any, single: str) -> list[str]:
    return [name or single for name, _ in pytrees.named_leaves(values)]


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _is_key(array: Any) -> bool:
    return bool(jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key))


def _unkeyed(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays with the numbers of random keys in the place of the keys, as leaves have them."""
    return {
        (join(name, "data") if _is_key(array) else name): (
            jax.random.key_data(array) if _is_key(array) else array
        )
        for name, array in arrays.items()
    }


def _keyed(arrays: Mapping[str, Any], leaves: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: jax.random.wrap_key_data(leaves[join(name, "data")], impl=jax.random.key_impl(array))
        if _is_key(array)
        else leaves[name]
        for name, array in arrays.items()
    }
