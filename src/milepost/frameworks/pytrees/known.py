"""The functions of JAX that a model file may name: all of them pure, none that opens or runs.

A fixed list: what a later JAX adds is unknown until someone has looked at it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp

_NN = """
    celu dot_product_attention elu gelu glu hard_sigmoid hard_silu hard_swish hard_tanh identity
    leaky_relu log_sigmoid log_softmax logsumexp mish one_hot relu relu6 selu sigmoid silu softmax
    softplus soft_sign sparse_plus sparse_sigmoid squareplus standardize swish
"""
_NUMPY = """
    abs absolute add amax amin arctan argmax argmin ceil clip cos cosh cumsum divide dot einsum exp
    exp2 expm1 flip floor hypot log log1p log2 logaddexp matmul max maximum mean median min minimum
    multiply negative ones power prod ravel reciprocal reshape round sign sin sinh sqrt square
    squeeze std subtract sum tan tanh tensordot transpose var vdot zeros
"""
_LAX = """
    abs add batch_matmul conv conv_general_dilated conv_general_dilated_local cos div dot
    dot_general erf exp exp2 expm1 log log1p logistic max min mul neg pow rsqrt sign sin sqrt
    square stop_gradient sub tanh
"""
INITIALIZERS = {
    name: getattr(jax.nn.initializers, name)
    for name in ("constant", "delta_orthogonal", "normal", "orthogonal", "truncated_normal",
                 "uniform", "variance_scaling")
    if hasattr(jax.nn.initializers, name)
}  # fmt: skip


def functions(home: Any, names: Iterable[str], prefix: str) -> dict[str, Callable[..., Any]]:
    """Those of the functions that this version has, by their full names."""
    return {f"{prefix}.{name}": getattr(home, name) for name in names if hasattr(home, name)}


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **functions(jax.nn, _NN.split(), "jax.nn"),
    **functions(jnp, _NUMPY.split(), "jax.numpy"),
    **functions(jnp.linalg, ["norm"], "jax.numpy.linalg"),
    **functions(jax.lax, _LAX.split(), "jax.lax"),
    **functions(jax.nn.initializers, ["zeros", "ones"], "jax.nn.initializers"),
}


@dataclass(frozen=True)
class Vocabulary:
    """What a file of one framework may name.

    Attributes:
        package: the framework's own, whose other classes are refused.
        bases: the classes that a caller's class must be one of.
        classes: the framework's own, by name.
        functions: the framework's own, beside JAX's.
    """

    package: str
    bases: tuple[type, ...] = ()
    classes: dict[str, type] = field(default_factory=dict)
    functions: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.functions.update(FUNCTIONS)

    def class_name(self, cls: Any) -> str | None:
        name = getattr(cls, "__name__", "")
        return name if self.classes.get(name) is cls else None

    def function_name(self, function: Any) -> str | None:
        return next((name for name, known in self.functions.items() if known is function), None)


def default_of(cls: type | None, name: str) -> Any:
    """The default of a class's field, or of its constructor's argument; None if it has none."""
    if is_dataclass(cls):
        found = [f.default for f in fields(cls) if f.name == name and f.default is not MISSING]
        if found:
            return found[0]
    try:
        parameter = inspect.signature(cls.__init__).parameters[name]  # type: ignore[misc]
    except (KeyError, TypeError, ValueError):
        return None
    return None if parameter.default is parameter.empty else parameter.default


def initializer(function: Any) -> tuple[str, dict[str, Any]] | None:
    """The name and the arguments of what made one of JAX's initialisers; None if nothing known did.

    They are read from its closure, and proved: the same must come out of them.
    """
    if not isinstance(function, FunctionType):
        return None
    name = function.__qualname__.partition(".<locals>")[0]
    make = INITIALIZERS.get(name)
    if make is None or function.__globals__ is not make.__globals__:
        return None
    arguments = _arguments(function)
    try:
        again = make(**arguments)
    except (TypeError, ValueError):
        return None
    same = again.__code__ is function.__code__ and _arguments(again) == arguments
    return (name, arguments) if same else None


def _arguments(function: FunctionType) -> dict[str, Any]:
    """What the maker of an initialiser was called with: its closure, and its own default."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    closure = dict(zip(function.__code__.co_freevars, cells, strict=True))
    return {**closure, "dtype": inspect.signature(function).parameters["dtype"].default}
