"""TorchScript's archives: the weights, by the names that the module's state dict has."""

from __future__ import annotations

import re
import shutil

import pytest
import torch

import milepost
from milepost.testing import FormatTests
from tests.formats.test_torch_file import flat

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Block(torch.nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(width, 3), torch.nn.BatchNorm1d(3))
        self.again = self.inner[0]
        self.attribute = torch.ones(2)
        self.sizes = [1, 2, 3]
        self.absent: torch.Tensor | None = None
        self.register_buffer("scale", torch.full((3,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.scale + self.attribute.sum()


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("script") / "model.pt"
    with_two = torch.nn.Sequential(Block(4), torch.nn.Linear(3, 2))
    torch.jit.save(torch.jit.script(with_two.eval()), path)
    return path, flat(torch.jit.load(path).state_dict())


class TestTorchScript(FormatTests):
    executions = 80

    @pytest.fixture(autouse=True)
    def _made_once(self, scripted):
        self.scripted = scripted

    def make(self, folder):
        path, expected = self.scripted
        return shutil.copy(path, folder / "model.pt"), expected


def test_attributes_that_are_no_parameters_are_told(scripted):
    with milepost.open(scripted[0]) as snapshot:
        assert "0.attribute" in snapshot.metadata["left_out"]
        # PyTorch numbers the classes of a process: `linear.___torch_mangle_1.Linear`.
        classes = " ".join(snapshot.metadata["classes"])
        assert re.search(r"__torch__\.torch\.nn\.modules\.linear\.(\w+\.)?Linear", classes)
        assert snapshot.metadata["producer"] == "TorchScript"


def test_constants_of_the_code(tmp_path):
    numbers = torch.arange(3.0)
    traced = torch.jit.trace(lambda x: x + numbers, torch.zeros(3))
    torch.jit.save(traced, str(tmp_path / "traced.pt"))
    with milepost.open(tmp_path / "traced.pt") as snapshot:
        assert snapshot.read("constants/0").tolist() == [0, 1, 2]
