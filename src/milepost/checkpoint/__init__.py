"""Checkpoints of live objects: save, plan, restore, and the policy over them."""

from milepost.checkpoint.background import BackgroundSave
from milepost.checkpoint.checkpoint import Checkpoint
from milepost.checkpoint.keep import Keep, KeepBest, KeepEvery, KeepLast, KeepSteps
from milepost.checkpoint.manager import CheckpointManager
from milepost.checkpoint.plan import PlanEntry, RestorePlan, Status
from milepost.checkpoint.values import load_state, save_state

__all__ = [
    "BackgroundSave",
    "Checkpoint",
    "CheckpointManager",
    "Keep",
    "KeepBest",
    "KeepEvery",
    "KeepLast",
    "KeepSteps",
    "PlanEntry",
    "RestorePlan",
    "Status",
    "load_state",
    "save_state",
]
