"""Whole models in one file."""

from milepost.model.load import load_model
from milepost.model.report import ModelReport
from milepost.model.save import save_model

__all__ = ["ModelReport", "load_model", "save_model"]
