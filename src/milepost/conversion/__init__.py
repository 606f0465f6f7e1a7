"""From one format to another, and from other tools' runs into a store."""

from milepost.conversion.convert import convert
from milepost.conversion.report import ConversionReport
from milepost.conversion.runs import ImportReport, import_run

__all__ = ["ConversionReport", "ImportReport", "convert", "import_run"]
