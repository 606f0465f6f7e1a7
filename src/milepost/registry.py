"""Classes and functions that a program has registered, by the name that files know them by.

A file names what it needs and brings none of it. What it names is looked up here, in the
framework's own fixed list, and in what the caller passes, and nowhere else.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from milepost.errors import UsageError
from milepost.limits import is_writable

T = TypeVar("T", bound=Callable[..., Any])

_by_name: dict[str, Any] = {}
# Under this name an instance of a registered class keeps what its constructor was called with.
ARGUMENTS = "__milepost_arguments__"


@overload
def register(thing: T, *, name: str | None = None) -> T: ...
@overload
def register(thing: None = None, *, name: str | None = None) -> Callable[[T], T]: ...
def register(thing: T | None = None, *, name: str | None = None) -> T | Callable[[T], T]:
    """Register a class or a function of yours, so that model files may name it.

    Use it as a decorator, with or without a name, or call it with the thing. Of a class it
    also records what each new object's constructor is called with, so that `save_model` need
    not guess. Register a class again, under the same name, and the new one takes its place: a
    notebook's cell that runs twice does that.

    Arguments:
        thing: the class or function.
        name: what files call it; by default its own `__name__`.

    Raises:
        UsageError: it has no name, or another module's class has that name already.
    """
    if thing is None:
        return functools.partial(register, name=name)
    chosen = name or getattr(thing, "__name__", "")
    if not callable(thing) or not chosen or chosen == "<lambda>" or not is_writable(chosen):
        raise UsageError(
            f"register a class or a named function, or pass name=: found {thing!r:.80}"
        )
    before = _by_name.get(chosen)
    if before is not None and _home(before) != _home(thing):
        raise UsageError(
            f"{chosen!r} is registered already, for {'.'.join(_home(before))}: pass name= for "
            f"{'.'.join(_home(thing))}"
        )
    if isinstance(thing, type):
        _record_arguments(thing)
    _by_name[chosen] = thing
    return thing


def _home(thing: Any) -> tuple[str, str]:
    return str(getattr(thing, "__module__", "")), str(getattr(thing, "__qualname__", thing))


def registered() -> Mapping[str, Any]:
    """Everything that is registered, by name."""
    return dict(_by_name)


def name_of(thing: Any) -> str | None:
    """The name under which a class or function is registered, or None."""
    return next((name for name, other in _by_name.items() if other is thing), None)


def arguments_of(value: Any, cls: type | None = None) -> dict[str, Any] | None:
    """What the constructor of an object of a registered class was called with, by name.

    Variadic ones are under their own names, `*args` as a tuple and `**kwargs` as a dict. None
    if the class is not registered, or the object was made before it was. `cls` is the class
    that the object was made of, where it has another by now.
    """
    found = vars(value).get(ARGUMENTS) if hasattr(value, "__dict__") else None
    return dict(found) if found is not None and name_of(cls or type(value)) else None


def call(cls: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a class or function with arguments as `arguments_of` gives them."""
    parameters = inspect.signature(cls).parameters.values()
    positional: list[Any] = []
    by_name = dict(arguments)
    variadic = any(p.kind is p.VAR_POSITIONAL and by_name.get(p.name) for p in parameters)
    for p in parameters:
        if p.name not in by_name:
            continue
        if p.kind is p.VAR_POSITIONAL:
            positional += by_name.pop(p.name)
        elif p.kind is p.VAR_KEYWORD:
            by_name |= by_name.pop(p.name)
        elif p.kind is p.POSITIONAL_ONLY or (variadic and p.kind is p.POSITIONAL_OR_KEYWORD):
            positional.append(by_name.pop(p.name))
    return cls(*positional, **by_name)


def _copied(value: Any, depth: int = 16) -> Any:
    """A value whose containers are its own: a constructor may take items out of those it gets."""
    kind = type(value)
    if kind in (list, tuple, set) and depth:
        return kind(_copied(item, depth - 1) for item in value)
    if kind in (dict, OrderedDict) and depth:
        return kind((key, _copied(item, depth - 1)) for key, item in value.items())
    return value


def _record_arguments(cls: type) -> None:
    """Let the class's constructor note what it is called with, before it runs."""
    kind: Any = cls
    original = kind.__init__
    if getattr(original, "__milepost_records__", None) is cls:
        return
    if hasattr(cls, "_pytree__nodes"):
        return  # a Flax NNX class: each attribute of its modules is a part of the model
    signature = inspect.signature(original)

    @functools.wraps(original)
    def recording(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is cls:  # not when a subclass's constructor calls this one
            try:
                bound = signature.bind(self, *args, **kwargs).arguments
            except TypeError:
                bound = {}  # the constructor itself will say what is wrong
            own = list(bound)[1:]
            with contextlib.suppress(AttributeError):  # it has slots, and no place for this
                object.__setattr__(self, ARGUMENTS, {key: _copied(bound[key]) for key in own})
        original(self, *args, **kwargs)

    recording.__milepost_records__ = cls  # type: ignore[attr-defined]
    recording.__signature__ = signature  # type: ignore[attr-defined]  # Keras asks for it
    with contextlib.suppress(TypeError):  # a class of C cannot be changed
        kind.__init__ = recording
