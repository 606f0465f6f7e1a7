"""Stores: folders of checkpoints that share their data."""

from milepost.store.prune import PruneReport, prune, prune_if_any
from milepost.store.snapshot import CheckpointSnapshot
from milepost.store.store import Store
from milepost.store.verify import verify_store
from milepost.store.write import SaveReport, Writer

__all__ = [
    "CheckpointSnapshot",
    "PruneReport",
    "SaveReport",
    "Store",
    "Writer",
    "prune",
    "prune_if_any",
    "verify_store",
]
