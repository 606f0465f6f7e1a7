"""milepost saves and loads neural networks: training checkpoints, and whole models.

Everything public is listed here, and is loaded when it is first used: importing milepost
imports no framework, and not even NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from milepost.checkpoint import (
        Checkpoint,
        CheckpointManager,
        KeepBest,
        KeepEvery,
        KeepLast,
        KeepSteps,
        RestorePlan,
    )
    from milepost.frameworks.random import RandomState

# Where each public name lives. Modules behind it are free to move.
_HOMES = {
    # Checkpoints of live objects
    "Checkpoint": "milepost.checkpoint",
    "CheckpointManager": "milepost.checkpoint",
    "KeepBest": "milepost.checkpoint",
    "KeepEvery": "milepost.checkpoint",
    "KeepLast": "milepost.checkpoint",
    "KeepSteps": "milepost.checkpoint",
    "RandomState": "milepost.frameworks.random",
    "RestorePlan": "milepost.checkpoint",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    import importlib

    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'milepost' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
