"""How fast milepost saves and restores on a disk, beside what that disk and this memory can do."""

from __future__ import annotations

from milepost.bench.measure import Measurement, Report, measure

__all__ = ["Measurement", "Report", "measure"]
