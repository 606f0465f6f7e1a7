"""Configurations: out as JSON, and in again if they ask for nothing that is not in the file."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from milepost.errors import UnknownClassError, UnsupportedObjectError, UntrustedError, UsageError
from milepost.limits import shown

# Without its types, which take long to check.
library: Any = importlib.import_module("transformers")

# What computes attention, or runs experts. Any other may be a kernel from the hub.
_IMPLEMENTATIONS = (None, "eager", "sdpa", "flex_attention", "grouped_mm", "batched_mm")
# Where the saver's files were, and what tells of a version.
_DROPPED = ("_name_or_path", "name_or_path", "_commit_hash", "transformers_version")
# Settings that run code of somebody else, fetch it, or need what is not in the tensors.
_REFUSED = (
    *("auto_map", "custom_pipelines", "trust_remote_code", "quantization_config"),
    *("use_timm_backbone", "use_pretrained_backbone", "timm_kwargs"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
)
# They make their models with timm, by a name that may be a place on the hub, or hold paths.
_REFUSED_TYPES = ("timm_wrapper", "timm_backbone", "rag")


def written(config: Any) -> dict[str, Any]:
    """A configuration as JSON, without what tells of the saver's machine."""
    try:
        values = json.loads(json.dumps(config.to_dict(), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UnsupportedObjectError(
            f"the configuration {type(config).__name__} holds what is no plain value: {error}"
        ) from None
    return dict(_without(values, _DROPPED))


def config_of(cls: Any, structure: Mapping[str, Any]) -> Any:
    values = structure["config"]
    _refuse(values)
    kind = cls.config_class
    if getattr(kind, "model_type", None) != values.get("model_type"):
        known = library.CONFIG_MAPPING
        if values.get("model_type") not in known:
            raise UnknownClassError(
                f"the model's configuration is of the type {shown(values.get('model_type'))}, "
                f"which Transformers {library.__version__} does not know"
            )
        kind = known[values["model_type"]]
    try:
        config = kind.from_dict(_without(values, _DROPPED))
    except Exception as error:  # whatever a configuration raises at values that it does not like
        raise UsageError(
            f"{kind.__name__} does not take the configuration: {type(error).__name__}: {error}"
        ) from error
    wanted = structure["implementations"]
    for path, part in _parts(config):
        attention, experts = wanted.get(path, (None, None))
        if attention not in _IMPLEMENTATIONS or experts not in _IMPLEMENTATIONS:
            raise UntrustedError(
                f"the model computes attention by {shown(attention)} and experts by "
                f"{shown(experts)}: only {', '.join(map(str, _IMPLEMENTATIONS[1:]))} are known, "
                "because another may be code from the hub; choose one with "
                "model.set_attn_implementation(...)"
            )
        part._attn_implementation_internal = attention
        part._experts_implementation_internal = experts
    return config


def generation_config_of(model: Any, values: dict[str, Any]) -> Any:
    _refuse(values)
    return type(model.generation_config).from_dict(_without(values, _DROPPED))


def implementations(config: Any) -> dict[str, list[str | None]]:
    return {
        path: [
            getattr(part, "_attn_implementation_internal", None),
            getattr(part, "_experts_implementation_internal", None),
        ]
        for path, part in _parts(config)
    }


def _parts(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """A configuration and those inside of it, by name."""
    yield path, config
    for key, value in vars(config).items():
        if isinstance(value, library.PreTrainedConfig):
            yield from _parts(value, f"{path}.{key}" if path else key)


def _refuse(values: Any) -> None:
    """Raise UntrustedError if a configuration, or one inside, asks for what is not in the file."""
    inside = values.values() if isinstance(values, dict) else values
    if isinstance(values, dict):
        asked = [key for key in _REFUSED if values.get(key)]
        if values.get("model_type") in _REFUSED_TYPES:
            asked.append(f"model_type {values['model_type']!r}")
        if asked:
            raise UntrustedError(
                f"the configuration asks for {', '.join(asked)}, which needs code or data from "
                "elsewhere"
            )
    for value in inside:
        if isinstance(value, dict | list):
            _refuse(value)


def _without(values: Any, keys: tuple[str, ...]) -> Any:
    if isinstance(values, dict):
        return {k: _without(value, keys) for k, value in values.items() if k not in keys}
    return [_without(value, keys) for value in values] if isinstance(values, list) else values
