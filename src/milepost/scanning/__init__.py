"""`scan`: what a file could do to who opens it the usual way."""

from milepost.scanning.report import Finding, ScanReport, Severity
from milepost.scanning.walk import scan

__all__ = ["Finding", "ScanReport", "Severity", "scan"]
