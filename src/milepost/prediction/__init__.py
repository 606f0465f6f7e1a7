"""Prediction with a model file's program: no framework, no class, no code of the model's."""

from milepost.prediction.loaded import LoadedProgram, load_program
from milepost.prediction.predictions import Predictions, check_out, write_predictions
from milepost.prediction.read import Inputs, read_inputs

__all__ = [
    "Inputs",
    "LoadedProgram",
    "Predictions",
    "check_out",
    "load_program",
    "read_inputs",
    "write_predictions",
]
