"""Stores: folders of checkpoints that share their data."""

from milepost.store.compact import Compaction, CompactReport
from milepost.store.compact import compact as compact_store
from milepost.store.prune import PruneReport, prune, prune_if_any
from milepost.store.snapshot import CheckpointSnapshot
from milepost.store.store import Store
from milepost.store.verify import verify_store
from milepost.store.write import SaveReport, Writer

__all__ = [
    "CheckpointSnapshot",
    "CompactReport",
    "Compaction",
    "PruneReport",
    "SaveReport",
    "Store",
    "Writer",
    "compact_store",
    "prune",
    "prune_if_any",
    "verify_store",
]
