"""The class and the configuration of a model, and the model again, proved to be the same."""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from milepost.errors import (
    DamagedError,
    MilepostError,
    UnknownClassError,
    UnsupportedObjectError,
    UntrustedError,
    UsageError,
)
from milepost.frameworks.base import ModelParts
from milepost.frameworks.torch.harm import lost, refuse
from milepost.frameworks.torch.proof import difference
from milepost.frameworks.torch.settings import default_dtype, settings, settle, specs_of
from milepost.frameworks.transformers.config import (
    config_of,
    generation_config_of,
    implementations,
    library,
    written,
)
from milepost.state import LeafSpec

# What Transformers notes on a module, and does not compute with, or not while gradients are not
# checkpointed. The configuration has the size of the vocabulary; the model too, if it changed.
_NOTES = (
    *("name_or_path", "_is_hf_initialized", "_use_kernels", "_weight_conversions"),
    *("vocab_size", "_require_grads_hook", "_require_grads_hooks", "_gradient_checkpointing_func"),
)


def describe(model: Any) -> ModelParts:
    """The class and the configuration of a model, as JSON.

    Raises:
        UnsupportedObjectError: it cannot be built again from that; the message has the reason
            and the ways out.
    """
    refuse(model)
    cls, name = type(model), type(model).__name__
    custom = {} if _is_theirs(cls) else {name: cls}
    structure = {
        "custom" if custom else "class": name,
        "config": written(model.config),
        "implementations": implementations(model.config),
        **settings(model),
        "needs": sorted(custom),
    }
    if getattr(model, "generation_config", None) is not None:
        structure["generation_config"] = written(model.generation_config)
    try:
        rebuilt = build(structure, {}, custom, specs_of(model))
        _forget(model, rebuilt)
        problem = difference(model, rebuilt, forgets=False)
    except MilepostError as error:
        problem = str(error)
    if problem:
        raise UnsupportedObjectError(
            f"{problem}, so the model could not be loaded again. A {name} has to be what its "
            "class makes of its configuration; or save a Checkpoint, which needs no structure"
        )
    return ModelParts(structure, lost=lost(model))


def build(
    structure: Mapping[str, Any],
    assets: Mapping[str, bytes],
    custom_objects: Mapping[str, Any],
    specs: Mapping[str, LeafSpec] | None = None,
) -> Any:
    """The model that `describe` described. Only what no file has gets a value.

    Raises:
        UnknownClassError: it needs a class that is neither theirs nor passed.
        UntrustedError: its configuration asks for code, or for a download.
        UsageError: the constructor failed; the message has its reason.
        DamagedError: it is no description of such a model.
    """
    try:
        cls = _class(structure, custom_objects)
        model = _made(cls, config_of(cls, structure), structure, specs)
        return settle(model, structure, specs)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(
            f"the structure is that of no Transformers model: {type(error).__name__}: {error}"
        ) from None


def _made(
    cls: Any, config: Any, structure: Mapping[str, Any], specs: Mapping[str, LeafSpec] | None
) -> Any:
    dtype = default_dtype(structure.get("default_dtype"))
    try:
        with dtype, _without_initial_values(), _without_kernels(), _no_larger_than(specs):
            model = cls(config)
        if "generation_config" in structure:
            model.generation_config = generation_config_of(model, structure["generation_config"])
    except MilepostError:
        raise
    except Exception as error:  # whatever the constructor of a model raises
        raise UsageError(
            f"Transformers {library.__version__} cannot make a {cls.__name__} of its "
            f"configuration: {type(error).__name__}: {error}"
        ) from error
    _empty(model)
    return model


def _is_theirs(cls: type) -> bool:
    """Whether it is a model's class of Transformers, by the name that Transformers gives it."""
    return (
        issubclass(cls, library.PreTrainedModel)
        and cls.__module__.startswith("transformers.models.")
        and getattr(library, cls.__name__, None) is cls
    )


def _class(structure: Mapping[str, Any], custom_objects: Mapping[str, Any]) -> Any:
    if "custom" in structure:
        name = structure["custom"]
        cls = custom_objects.get(name)
        if not isinstance(cls, type) or not issubclass(cls, library.PreTrainedModel):
            raise UnknownClassError(
                f"the model is of the class {name!r}, which is not Transformers' own: "
                f"pass custom_objects={{{name!r}: {name}}}"
            )
        return cls
    name = str(structure["class"])
    # Only what it offers itself: an attribute of any other name might be anything.
    cls = getattr(library, name) if name in dir(library) else None
    if not isinstance(cls, type) or not _is_theirs(cls):
        raise UnknownClassError(
            f"the model is of the class {name!r}, which Transformers "
            f"{library.__version__} has not: install the version that saved it"
        )
    return cls


@contextlib.contextmanager
def _without_initial_values() -> Iterator[None]:
    """Parameters stay uninitialised: they take no time, and no memory until they are written."""
    # It has moved from the one to the other.
    for place in ("transformers.initialization", "transformers.modeling_utils"):
        found = getattr(sys.modules.get(place), "no_init_weights", None)
        if found is not None:
            with found():
                yield
            return
    yield


@contextlib.contextmanager
def _without_kernels() -> Iterator[None]:
    """Constructors fetch no code: some ask the hub for a kernel, if `kernels` is installed."""
    place: Any = importlib.import_module("transformers.integrations.hub_kernels")
    with contextlib.ExitStack() as undone:
        for name, value in (("_kernels_enabled", False), ("get_kernel", _no_kernel)):
            if hasattr(place, name):
                undone.callback(setattr, place, name, getattr(place, name))
                setattr(place, name, value)
        yield


def _no_kernel(name: str, *_: Any, **__: Any) -> Any:
    raise UntrustedError(
        f"the model's class wants the kernel {name!r} from the hub, which is code: set "
        "USE_HUB_KERNELS=NO, or build the model before you load into it"
    )


@contextlib.contextmanager
def _no_larger_than(specs: Mapping[str, LeafSpec] | None) -> Iterator[None]:
    """Refuse parameters that are none of the file's: a few numbers ask for any memory and time."""
    shapes = {spec.shape for spec in specs.values()} if specs else set()
    left = 2 * len(specs or ()) + 100  # some are made twice
    thread = threading.get_ident()

    def check(module: nn.Module, name: str, parameter: torch.Tensor | None) -> None:
        nonlocal left
        if specs is None or parameter is None or threading.get_ident() != thread:
            return
        left -= 1
        if tuple(parameter.shape) not in shapes or left < 0:
            raise UsageError(
                f"the configuration makes the parameter {name!r} of shape {list(parameter.shape)} "
                f"in a {type(module).__name__}, which is none of the model's {len(specs)} tensors"
            )

    hook = torch.nn.modules.module.register_module_parameter_registration_hook(check)
    try:
        yield
    finally:
        hook.remove()


def _empty(model: nn.Module) -> None:
    """Take the values from all tensors that will be restored; those that will not keep them."""
    emptied: dict[int, Any] = {}
    for part in model.modules():
        for key, tensor in part._parameters.items():
            if tensor is not None:
                new = nn.Parameter(tensor.detach().to("meta"), tensor.requires_grad)
                vars(new).update(vars(tensor))
                part._parameters[key] = emptied.setdefault(id(tensor), (tensor, new))[1]
        for key, buffer in part._buffers.items():
            if buffer is not None and key not in part._non_persistent_buffers_set:
                new = emptied.setdefault(id(buffer), (buffer, buffer.to("meta")))[1]
                part._buffers[key] = new


def _forget(model: Any, rebuilt: Any) -> None:
    """Make equal, for a comparison, what does not have to be.

    That is where a model came from, what was done to it already, and configurations that are
    written alike: a tuple comes back as a list, as it does when Transformers loads one.
    """
    others = dict(rebuilt.named_modules(remove_duplicate=False))
    for name, part in model.named_modules(remove_duplicate=False):
        mine, theirs = vars(part), vars(others.get(name, model))
        for key in _NOTES:
            theirs.pop(key, None)
            if key in mine:
                theirs[key] = mine[key]
        if mine.get("gradient_checkpointing") is False:  # after it was true, in parts as well
            theirs.setdefault("gradient_checkpointing", False)
        for key, value in mine.items():
            if key in theirs and _is_written_alike(value, theirs[key]):
                theirs[key] = value


def _is_written_alike(a: Any, b: Any) -> bool:
    kinds = library.PreTrainedConfig, library.GenerationConfig
    if type(a) is not type(b) or not isinstance(a, kinds):
        return False
    return written(a) == written(b) and implementations(a) == implementations(b)
