"""Inspection: what the arrays of a snapshot hold, and in what two snapshots differ.

Both read part after part, in memory that does not grow with the arrays.
"""

from milepost.inspection.difference import Difference, LeafDifference, diff
from milepost.inspection.distance import Distance
from milepost.inspection.histogram import Histogram
from milepost.inspection.selection import matching
from milepost.inspection.statistics import LeafStatistics, leaf_statistics

__all__ = [
    "Difference",
    "Distance",
    "Histogram",
    "LeafDifference",
    "LeafStatistics",
    "diff",
    "leaf_statistics",
    "matching",
]
