"""milepost saves and loads neural networks: training checkpoints, and whole models.

Everything public is listed here, and is loaded when it is first used: importing milepost
imports no framework, and not even NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from milepost import errors as errors
    from milepost.checkpoint import BackgroundSave as BackgroundSave
    from milepost.checkpoint import Checkpoint as Checkpoint
    from milepost.checkpoint import CheckpointManager as CheckpointManager
    from milepost.checkpoint import KeepBest as KeepBest
    from milepost.checkpoint import KeepEvery as KeepEvery
    from milepost.checkpoint import KeepLast as KeepLast
    from milepost.checkpoint import KeepSteps as KeepSteps
    from milepost.checkpoint import RestorePlan as RestorePlan
    from milepost.checkpoint import load_state as load_state
    from milepost.checkpoint import save_state as save_state
    from milepost.conversion import ConversionReport as ConversionReport
    from milepost.conversion import ImportReport as ImportReport
    from milepost.conversion import import_run as import_run
    from milepost.conversion.convert import convert as convert
    from milepost.errors import MilepostError as MilepostError
    from milepost.frameworks.random import RandomState as RandomState
    from milepost.inspection import Difference as Difference
    from milepost.inspection import LeafStatistics as LeafStatistics
    from milepost.inspection import diff as diff
    from milepost.inspection import leaf_statistics as leaf_statistics
    from milepost.lazy import LazyArray as LazyArray
    from milepost.model import ModelReport as ModelReport
    from milepost.model import Replay as Replay
    from milepost.model import load_model as load_model
    from milepost.model import model_card as model_card
    from milepost.model import replay as replay
    from milepost.model import save_model as save_model
    from milepost.opening import compact as compact
    from milepost.opening import open as open
    from milepost.opening import verify as verify
    from milepost.prediction import LoadedProgram as LoadedProgram
    from milepost.prediction import load_program as load_program
    from milepost.registry import register as register
    from milepost.scanning import ScanReport as ScanReport
    from milepost.scanning import scan as scan
    from milepost.snapshot import Damage as Damage
    from milepost.snapshot import Snapshot as Snapshot
    from milepost.store import CompactReport as CompactReport
    from milepost.store import SaveReport as SaveReport
    from milepost.store import Store as Store

# The public names, and where each lives. Modules behind them are free to move.
_HOMES = {
    # Checkpoints of live objects
    "BackgroundSave": "milepost.checkpoint",
    "Checkpoint": "milepost.checkpoint",
    "CheckpointManager": "milepost.checkpoint",
    "KeepBest": "milepost.checkpoint",
    "KeepEvery": "milepost.checkpoint",
    "KeepLast": "milepost.checkpoint",
    "KeepSteps": "milepost.checkpoint",
    "RandomState": "milepost.frameworks.random",
    "load_state": "milepost.checkpoint",
    "save_state": "milepost.checkpoint",
    # Whole models
    "load_model": "milepost.model",
    "load_program": "milepost.prediction",
    "model_card": "milepost.model",
    "replay": "milepost.model",
    "register": "milepost.registry",
    "save_model": "milepost.model",
    # Anything on disk
    "open": "milepost.opening",
    "compact": "milepost.opening",
    "convert": "milepost.conversion",
    "diff": "milepost.inspection",
    "import_run": "milepost.conversion",
    "leaf_statistics": "milepost.inspection",
    "scan": "milepost.scanning",
    "verify": "milepost.opening",
    "LazyArray": "milepost.lazy",
    "Snapshot": "milepost.snapshot",
    "Store": "milepost.store",
    # What these return, and raise
    "CompactReport": "milepost.store",
    "ConversionReport": "milepost.conversion",
    "Damage": "milepost.snapshot",
    "Difference": "milepost.inspection",
    "ImportReport": "milepost.conversion",
    "LeafStatistics": "milepost.inspection",
    "MilepostError": "milepost.errors",
    "LoadedProgram": "milepost.prediction",
    "ModelReport": "milepost.model",
    "Replay": "milepost.model",
    "RestorePlan": "milepost.checkpoint",
    "SaveReport": "milepost.store",
    "ScanReport": "milepost.scanning",
    "errors": "milepost.errors:",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'milepost' has no attribute {name!r}")
    module, colon, attribute = _HOMES[name].partition(":")
    value: Any = importlib.import_module(module)
    if attribute or not colon:
        value = getattr(value, attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
