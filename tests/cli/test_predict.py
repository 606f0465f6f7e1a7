"""`milepost predict`."""

from __future__ import annotations

import csv

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from milepost import save_model
from tests.prediction.conftest import LABELS, digits, expected, x  # noqa: F401  # fixtures


@pytest.fixture
def inputs(x, tmp_path):  # noqa: F811
    np.save(tmp_path / "x.npy", x)
    return "x.npy"


def test_a_table_of_classes(cli, digits, inputs, expected):  # noqa: F811
    finished = cli("predict", digits, inputs)
    assert (finished.status, finished.err) == (0, "")
    header, *rows = (line.split() for line in finished.out.splitlines())
    assert header == ["row", "label", "probability"]
    assert [row[1] for row in rows] == [LABELS[place] for place in expected.argmax(1)]
    np.testing.assert_allclose([float(row[2]) for row in rows], expected.max(1), atol=1e-5)


def test_every_format_of_the_output(cli, digits, inputs, expected, tmp_path):  # noqa: F811
    labels = [LABELS[place] for place in expected.argmax(1)]
    for name in ("y.npy", "y.npz", "y.csv", "y.parquet", "y.json"):
        finished = cli("predict", digits, inputs, "-o", name, "--batch-size", 7, "--json")
        assert (finished.status, finished.json) == (0, {"rows": 50, "out": name})
    close = {"atol": 1e-5}
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, **close)
    found = np.load(tmp_path / "y.npz")
    np.testing.assert_allclose(found["output"], expected, **close)
    assert found["label"].tolist() == labels
    with open(tmp_path / "y.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    table = pyarrow.parquet.read_table(tmp_path / "y.parquet").to_pylist()
    for each in (rows, table):
        assert [row["label"] for row in each] == labels
        np.testing.assert_allclose(
            [[float(row[label]) for label in LABELS] for row in each], expected, **close
        )
    finished = cli("predict", digits, inputs, "--json")
    assert [row["label"] for row in finished.json] == labels
    np.testing.assert_allclose([row["output"] for row in finished.json], expected, **close)


def test_images_have_names(cli, digits, tmp_path):  # noqa: F811
    (tmp_path / "images").mkdir()
    for name in ("b", "a"):
        Image.fromarray(np.full((8, 8), 50, "u1")).save(tmp_path / "images" / f"{name}.png")
    finished = cli("predict", digits, "images", "--scale", "1/255", "--json")
    assert [row["file"] for row in finished.json] == ["a.png", "b.png"]
    for scale in ("a", "1/0", "nan", "1e999"):
        assert cli("predict", digits, "images", "--scale", scale).status == 2


def test_a_failed_prediction_leaves_what_was_there(cli, digits, tmp_path):  # noqa: F811
    (tmp_path / "y.csv").write_text("before")
    np.save(tmp_path / "x.npy", np.zeros((2, 3), "f"))
    finished = cli("predict", digits, "x.npy", "-o", "y.csv")
    assert (finished.status, finished.out) == (2, "")
    assert "x.npy: input 'input': expected float32[any, 1, 8, 8]" in finished.err
    assert (tmp_path / "y.csv").read_text() == "before"


def test_exit_statuses(cli, digits, inputs, tmp_path):  # noqa: F811
    from torch import nn

    save_model(nn.Linear(2, 2), tmp_path / "without")
    data = bytearray(digits.read_bytes())
    data[-1] ^= 1
    (tmp_path / "damaged").write_bytes(data)
    for arguments, status, message in [
        ((digits, "nothing.npy"), 3, "nothing.npy does not exist"),
        (("nothing", inputs), 3, "nothing does not exist"),
        ((digits, inputs, "-o", "y.txt"), 2, "expected a name that ends in one of .npy"),
        ((digits, inputs, "-o", "no/folder.npy"), 3, "no"),
        ((digits, inputs, "--batch-size", 0), 2, "--batch-size"),
        (("without", inputs), 2, "has no program"),
        ((inputs, inputs), 2, "holds no model"),
        (("damaged", inputs), 4, "damaged"),
    ]:
        finished = cli("predict", *arguments)
        assert (finished.status, finished.out) == (status, ""), finished.err
        assert message in finished.err
