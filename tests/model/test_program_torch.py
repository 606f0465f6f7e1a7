"""PyTorch models as portable programs: what they compute, and what lies in the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import milepost
from milepost import errors


class Two(nn.Module):
    """Two inputs, a plain argument, outputs in a dict."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, b, a, double=False):
        y = self.left(a) + self.right(b)
        return {"sum": 2 * y if double else y, "parts": (self.left(a), [self.right(b)])}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.embed(x))


def make(kind):
    torch.manual_seed(3)
    if kind == "mlp":
        model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(), nn.Linear(8, 3))
        return model, torch.randn(5, 6)
    if kind == "cnn":
        layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)]
        model = nn.Sequential(*layers, nn.Softmax(-1))
        model(torch.randn(8, 1, 8, 8))  # moves the statistics
        return model, torch.randn(1, 1, 8, 8)
    if kind == "transformer":
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        return nn.TransformerEncoder(layer, 2), torch.randn(3, 4, 8)
    if kind == "lstm":
        return nn.LSTM(5, 7, 2, batch_first=True, bidirectional=True), torch.randn(2, 4, 5)
    if kind == "tied":
        return Tied(), torch.arange(6).reshape(2, 3)
    return Two(), {"b": torch.randn(3, 2), "a": torch.randn(3, 4), "double": True}


def more_rows(inputs, rows):
    def repeat(value):
        return value[torch.arange(rows) % len(value)] if isinstance(value, torch.Tensor) else value

    if isinstance(inputs, dict):
        return {key: repeat(value) for key, value in inputs.items()}
    return repeat(inputs)


def document(path):
    with milepost.open(path) as snapshot:
        return snapshot.document


LSTM = pytest.param("lstm", marks=pytest.mark.slow)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "transformer", LSTM, "tied", "two"])
def test_a_program_predicts_what_the_model_does(kind, tmp_path):
    model, inputs = make(kind)
    training = model.training
    milepost.save_model(model, tmp_path / "model", example=inputs, program=True)
    assert model.training is training
    program = milepost.load_program(tmp_path / "model")
    assert 0 <= program.replay().difference <= 1e-5
    check_weights(model, document(tmp_path / "model").program)
    inputs = more_rows(inputs, 7)
    model.eval()
    with torch.no_grad():
        expected = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    if isinstance(inputs, dict):
        found = program(**{k: v.numpy() for k, v in inputs.items() if k != "double"})
    else:
        found = program(inputs.numpy())
    check(expected, found)


def check_weights(model, program):
    """They are the model's leaves, and none is in the program a second time."""
    floating = {n for n, p in model.state_dict().items() if p.is_floating_point()}
    assert floating - set(program.weights.values()) <= {"head.weight"}  # is tied to `embed`
    for tensor in model.state_dict().values():
        assert tensor.numel() < 3 or tensor.numpy().tobytes() not in program.data
    for name in (b".py", b"/home", b"site-packages", __file__.encode()):
        assert name not in program.data


def check(expected, found):
    assert type(found) is (np.ndarray if isinstance(expected, torch.Tensor) else type(expected))
    if isinstance(expected, torch.Tensor):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    elif isinstance(expected, dict):
        assert expected.keys() == found.keys()
        [check(expected[key], found[key]) for key in expected]
    else:
        assert len(expected) == len(found)
        [check(e, f) for e, f in zip(expected, found, strict=True)]


def test_a_large_models_program_is_small(tmp_path):
    model = nn.Sequential(nn.Linear(2000, 3000), nn.ReLU(), nn.Linear(3000, 2000))
    milepost.save_model(model, tmp_path / "model", example=torch.ones(2, 2000), program=True)
    assert (tmp_path / "model").stat().st_size > 48_000_000
    assert len(document(tmp_path / "model").program.data) < 2000
    assert milepost.load_program(tmp_path / "model")(np.ones((3, 2000), "f")).shape == (3, 2000)


class Branches(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


def test_a_model_that_no_exporter_can_follow_is_refused(tmp_path):
    given = {"example": torch.ones(2, 2)}
    with pytest.raises(errors.UnsupportedObjectError, match="exporter cannot follow it") as caught:
        milepost.save_model(Branches(), tmp_path / "model", **given, program=True)
    assert "program=True" in str(caught.value)
    assert not (tmp_path / "model").exists()
    milepost.save_model(Branches(), tmp_path / "model", **given)
    with pytest.raises(errors.UsageError, match="has no program: save it with"):
        milepost.load_program(tmp_path / "model")


class Constant(nn.Module):
    """On the example, what its exporter sees is right."""

    def forward(self, x):
        return torch.ones_like(x) if torch.compiler.is_exporting() else x


def test_what_is_right_for_the_example_only_is_refused(tmp_path):
    with pytest.raises(errors.UnsupportedObjectError, match="with other inputs, predicts diff"):
        milepost.save_model(Constant(), tmp_path / "m", example=torch.ones(2, 2), program=True)


class Odd(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        if self.what == "passes its input on":
            return {"x": x, "none": None, "more": (x + 1, [x])}
        if self.what == "takes one row":
            return x.reshape(1, 4) * 2
        if self.what == "squeezes":
            return x.squeeze() * 2
        if self.what == "counts":
            return {"x": 2 * x, "rows": x.shape[0]}
        return x.unbind()


@pytest.mark.parametrize(
    ("what", "rows"),
    [("passes its input on", 3), ("takes one row", 1), ("squeezes", 1), ("unbinds", 2)],
)
def test_odd_outputs_and_rows(what, rows, tmp_path):
    x = torch.randn(rows, 4)
    milepost.save_model(Odd(what), tmp_path / "m", example=x, program=True)
    program = milepost.load_program(tmp_path / "m")
    assert program.replay().difference == 0
    found = program(x.numpy())
    if what == "passes its input on":
        assert found["none"] is None
        assert (found["x"] == found["more"][1][0]).all()


def test_a_number_that_is_no_array_must_not_depend_on_the_inputs(tmp_path):
    with pytest.raises(errors.UnsupportedObjectError, match="rows is 2 with some inputs and 3"):
        milepost.save_model(Odd("counts"), tmp_path / "m", example=torch.ones(2, 2), program=True)


def test_one_row_may_not_be_another_matter(tmp_path):
    class Alone(nn.Module):
        def forward(self, x):
            alone = not torch.compiler.is_exporting() and len(x) == 1
            return x * 2 if alone else x

    with pytest.raises(errors.UnsupportedObjectError, match="with other inputs"):
        milepost.save_model(Alone(), tmp_path / "m", example=torch.ones(2, 2), program=True)


def test_a_program_that_is_too_far_off_is_refused(tmp_path):
    model, inputs = make("transformer")
    with pytest.raises(errors.UnsupportedObjectError, match="faithful: .* is off by") as caught:
        milepost.save_model(model, tmp_path / "m", example=inputs, program=True, tolerance=0.0)
    assert "larger tolerance" in str(caught.value)


def test_a_program_needs_an_example(tmp_path):
    with pytest.raises(errors.UsageError, match="program=True needs example="):
        milepost.save_model(nn.Linear(2, 2), tmp_path / "model", program=True)


def test_low_precision(tmp_path):
    model = nn.Linear(4, 3).to(torch.float16)
    milepost.save_model(model, tmp_path / "m", example=torch.ones(2, 4).half(), program=True)
    found = milepost.load_program(tmp_path / "m")(np.ones((5, 4), np.float16))
    assert found.dtype == np.float16
    with torch.no_grad():
        np.testing.assert_allclose(found[:1], model(torch.ones(1, 4).half()).numpy(), rtol=3e-2)


def test_missing_exporters_name_the_command(tmp_path, run_program):
    finished = run_program(
        """
        import sys
        sys.modules["onnxscript"] = sys.modules["onnx"] = None  # as if they were not installed
        import torch, milepost
        try:
            milepost.save_model(torch.nn.Linear(2, 2), "m", example=torch.ones(1, 2), program=True)
        except milepost.errors.MissingPackageError as error:
            print(error)
        """
    )
    assert 'pip install "milepost[onnx,predict]"' in finished.stdout
    assert not (tmp_path / "m").exists()
