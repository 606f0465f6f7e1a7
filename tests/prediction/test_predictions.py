"""Predictions as tables and files: odd names, odd numbers."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet
import pytest

from milepost import errors
from milepost.prediction import Predictions, write_predictions

TWO = [{"name": name, "shape": [None, 2]} for name in ("file", "label")]
NAMES = [".npz", ".csv", ".parquet", ".json"]


@pytest.mark.parametrize("extension", NAMES)
def test_names_that_are_taken_or_not_utf8(tmp_path, extension):
    arrays = [np.array([[0.5, np.nan], [0.25, 0.75]], "f"), np.ones((2, 2), np.float16)]
    predictions = Predictions(TWO, arrays, ['a\n,"', "\udcff"], ["x", "\udcfe.png"])
    path = tmp_path / f"y{extension}"
    write_predictions(predictions, str(path))
    if extension == ".json":
        rows = json.loads(path.read_text("utf-8"), parse_constant=pytest.fail)
        assert [row["label"] for row in rows] == ["", "\\udcff"]
        assert [row["probability"] for row in rows] == [None, 0.75]
        assert rows[1]["file"] == "\\udcfe.png"
    if extension == ".npz":
        found = np.load(path)
        assert found["label_"].tolist() == ["", "\\udcff"]
        np.testing.assert_array_equal(found["file"], arrays[0])
    if extension == ".parquet":
        assert pyarrow.parquet.read_table(path).num_rows == 2


def test_complex_numbers(tmp_path):
    array = np.array([[1j, 2]])
    predictions = Predictions([{"name": "y", "shape": [None, 2]}], [array])
    for name in ("y.npy", "y.npz"):
        write_predictions(predictions, str(tmp_path / name))
    assert (np.load(tmp_path / "y.npy") == array).all()
    assert (np.load(tmp_path / "y.npz")["y"] == array).all()
    with pytest.raises(errors.UsageError, match="complex128 goes to .npy or .npz"):
        write_predictions(predictions, str(tmp_path / "y.csv"))


def test_one_number_for_two_classes_has_no_label():
    predictions = Predictions(
        [{"name": "y", "shape": [None, 1]}], [np.ones((2, 1), "f")], ["no", "yes"]
    )
    assert predictions.classes() == {}
