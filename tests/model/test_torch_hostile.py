"""Hostile structures of PyTorch models: refused with an error of ours, and nothing is run."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from milepost import errors, load_model, save_model
from tests.model.test_model_file import rewrite, set_node


@pytest.fixture
def path(tmp_path):
    save_model(nn.Sequential(nn.Linear(2, 2)), tmp_path / "model")
    return tmp_path / "model"


def known(name, **arguments):
    return {"class": name, "arguments": arguments}


LINEAR = known("Linear", in_features=2, out_features=2)
POPEN = {"custom": "Popen", "module": "subprocess", "qualname": "Popen"}
SYSTEM = {"custom": "system", "module": "os", "qualname": "system"}


def activation(value):
    return known("TransformerEncoderLayer", d_model=2, nhead=1, activation=value)


def parametrized(*steps, tensor="weight", **more):
    return {**LINEAR, "parametrized": [["", tensor, False, list(steps)]], **more}


def norm(name, **arguments):
    return {"norm": name, "arguments": arguments}


NODES = {
    "a class that downloads or opens": known("Sequential", x=1),
    "a class of another package": known("torch.jit.ScriptModule"),
    "a private name": known("__builtins__"),
    "a name that is no text": known(["Linear"]),
    "what wraps others": known("DataParallel", module={"module": LINEAR}),
    "quantised": known("Quantize"),
    "lazy": known("LazyLinear", out_features=2),
    "a custom class": {**POPEN, "arguments": {"args": ["touch", "x"]}},
    "a dotted function": activation({"function": "os.system"}),
    "a private function": activation({"function": "__import__"}),
    "a callable": activation({"callable": SYSTEM}),
    "a type": activation({"type": POPEN}),
    "a partial": activation({"partial": [{"callable": SYSTEM}, {"list": ["id"]}, {"dict": []}]}),
    "a partial of no function": activation({"partial": ["eval", {"list": []}, {"dict": []}]}),
    "an object": activation({"object": {**POPEN, "arguments": {"args": "id"}}}),
    "a dtype that is a function": known("ReLU", inplace={"dtype": "load"}),
    "a dtype that is a lazy import": known("ReLU", inplace={"dtype": "onnx"}),
    "no parametrisation": parametrized(norm("load")),
    "its own arguments": parametrized(norm("weight_norm", f="/etc/passwd")),
    "a class that computes": parametrized({"module": {**POPEN, "arguments": {}}}),
    "a tensor that is none": parametrized(norm("weight_norm"), tensor="forward"),
    "endless iterations": parametrized(norm("spectral_norm", n_power_iterations=10**12)),
    "no orthogonal map": parametrized(norm("orthogonal", orthogonal_map="__class__")),
    "a part in the place of a method": {**LINEAR, "parts": [["forward", LINEAR]]},
    "a part in the place of a tensor": {**LINEAR, "parts": [["weight", LINEAR]]},
    "a part of nothing": {**LINEAR, "parts": [["a.b.c", LINEAR]]},
    "a part with a dotted name": {"class": "Sequential", "children": [["a.b", LINEAR]]},
    "parts of no kind": {**LINEAR, "parts": 3},
    "shared with nothing": {"class": "Sequential", "children": [["0", {"shared": "1"}]]},
    "shared with itself": {"class": "Sequential", "children": [["0", {"shared": ""}]]},
    "too many layers": known("LSTM", input_size=2, hidden_size=2, num_layers=10**12),
    "too many dimensions": known("CrossEntropyLoss", weight={"tensor": [[2] * 99, "int8", False]}),
    "huge": known("Linear", in_features=10**9, out_features=10**9),
    "huge by its parametrisation": {
        **known("Linear", in_features=10**5, out_features=10**5),
        "parametrized": [["", "weight", False, [norm("orthogonal", orthogonal_map="x")]]],
    },
}


@pytest.mark.parametrize("kind", NODES)
def test_nodes(path, kind):
    rewrite(path, set_node(NODES[kind]))
    before = set(sys.modules)
    with pytest.raises(errors.MilepostError):
        load_model(path, custom_objects={"eval": eval, "Popen": subprocess.Popen})
    assert not {name for name in set(sys.modules) - before if not name.startswith("milepost")}


SETTINGS = {
    "ties to what is no tensor": {"ties": {"0.weight": "0.forward", "0.x": "0.weight"}},
    "ties of no kind": {"ties": [1]},
    "no ties": {"ties": None},
    "a dtype that is a function": {"unsaved_buffers": {"0.weight": "load"}},
    "a dtype of no kind": {"unsaved_buffers": {"0.weight": ["load"]}},
    "buffers of no kind": {"shared_buffers": 3},
    "evaluation of no kind": {"evaluation": [{}]},
    "a default that is a function": {"default_dtype": "load"},
    "a default that is a lazy import": {"default_dtype": "onnx"},
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings(path, kind):
    """Refused, or of no effect."""
    before = nn.Linear.forward, torch.get_default_dtype(), set(sys.modules)
    rewrite(path, lambda body: body["structure"].update(SETTINGS[kind]))
    try:
        model = load_model(path)
    except errors.MilepostError:
        pass
    else:
        assert model[0].weight.dtype == torch.float32
        assert model(torch.ones(1, 2)).shape == (1, 2)
    now = nn.Linear.forward, torch.get_default_dtype()
    assert now == before[:2]
    assert not set(sys.modules) - before[2]


def test_what_is_shared_gets_no_memory_that_the_file_has_not(path):
    huge = known("Linear", in_features=10**6, out_features=10**6)
    rewrite(path, set_node({"class": "Sequential", "children": [["0", huge]]}))
    rewrite(path, lambda body: body["structure"].update(shared_buffers={"a": "b"}))
    with pytest.raises(errors.RestoreRefusedError, match="0.weight"):
        load_model(path)


def test_a_parametrisation_is_looked_up_as_any_class(tmp_path):
    class Popen(nn.Module):
        def forward(self, x):
            return x

    model = nn.Linear(2, 2)
    torch.nn.utils.parametrize.register_parametrization(model, "weight", Popen())
    parametrizations.weight_norm(model, "bias")
    save_model(model, tmp_path / "model")
    with pytest.raises(errors.UnknownClassError, match="Popen"):
        load_model(tmp_path / "model", custom_objects={"Popen": print})
