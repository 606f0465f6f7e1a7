"""Whole models in one file."""

from milepost.model.card import model_card
from milepost.model.comparison import Replay
from milepost.model.load import load_model, replay
from milepost.model.report import ModelReport
from milepost.model.save import save_model

__all__ = ["ModelReport", "Replay", "load_model", "model_card", "replay", "save_model"]
