"""The state of a Linen module that is bound to variables: these, under their own names.

`params/Dense_0/kernel` is what `module.init` calls it. A restore returns the module bound anew.
"""

from __future__ import annotations

from typing import Any

from flax import linen
from flax.core import unfreeze

from milepost.errors import UnsupportedObjectError
from milepost.frameworks.base import Capture, Saved
from milepost.state import join
from milepost.tree import Structure, children


def capture(module: linen.Module, name: str, capture: Capture) -> Structure:
    return capture.child(name, parts(module, name)[1])


def apply(module: linen.Module, name: str, node: Structure, saved: Saved) -> Any:
    unbound, variables = parts(module, name)
    restored = {
        key: _applied(value, join(name, key), _below(node, key), saved)
        for key, value in variables.items()
    }
    return unbound.bind(restored, mutable=mutable(module))


def parts(module: linen.Module, name: str = "") -> tuple[linen.Module, dict[str, Any]]:
    """The module by itself, and its variables in dicts of their own.

    Raises:
        UnsupportedObjectError: it is not bound, or to random streams too, which have no names.
    """
    problem = None
    if module.scope is None:
        problem = "has no variables: pass module.bind(variables)"
    elif module.scope.rngs:
        problem = "is bound to random streams, which cannot be saved: bind it without rngs="
    if problem:
        raise UnsupportedObjectError(
            f"{name or 'the model'}, a Linen module of the class {type(module).__name__}, {problem}"
        )
    variables: Any
    unbound, variables = module.unbind()
    return unbound, dict(unfreeze(variables))


def mutable(module: linen.Module) -> Any:
    """Which collections of a bound module may change."""
    return module.scope.mutable if module.scope is not None else False


def _applied(value: Any, name: str, node: Structure, saved: Saved) -> Any:
    # Linen copies dicts when it binds them: their values have to be there by then.
    if not isinstance(value, dict):
        return saved.child(name, value, node)
    return {
        key: _applied(part, join(name, key), _below(node, key), saved)
        for key, part in value.items()
    }


def _below(node: Structure, key: str) -> Structure:
    return dict(children(node)).get(key)
