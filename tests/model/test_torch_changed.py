"""PyTorch models that were changed after their constructors had run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from milepost import errors, load_model, save_model

X = torch.linspace(-1, 1, 48).reshape(2, 3, 8)


class Net(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.width = width
        self.body = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        return self.head(self.norm(self.body(x)))


def come_back(model, path):
    """The model, saved and loaded, having predicted the same."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.uniform_(parameter)
    save_model(model, path, example=X)
    loaded = load_model(path, custom_objects={"Net": Net}, replay=True)
    assert repr(loaded) == repr(model)
    save_model(loaded, path, example=X)  # which is as good as the first
    return load_model(path, custom_objects={"Net": Net}, replay=True)


def another_head(model):
    model.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 2))


def another_inside(model):
    model.body[0] = nn.Linear(8, 8, bias=False)


def of_ones_own(model):
    model.norm = Net()
    model.norm.head = nn.Identity()


def one_more(model):
    model.body.append(nn.Tanh())


def none_at_all(model):
    model.body[1] = nn.Identity()
    model.extra = nn.ModuleDict({"a": nn.Linear(2, 2)})


def without_bias(model):
    model.head.bias = None


def wider(model):
    model.head.weight = nn.Parameter(torch.ones(5, 8))
    model.head.bias = nn.Parameter(torch.ones(5))
    model.head.out_features = 5


def another_rate(model):
    model.norm.eps = 0.5


@pytest.mark.parametrize(
    "change",
    [another_head, another_inside, of_ones_own, one_more, none_at_all, without_bias, wider,
     another_rate],
)  # fmt: skip
def test_a_part_that_was_put_there_later(tmp_path, change):
    model = Net()
    change(model)
    come_back(model, tmp_path / "model")


def test_a_part_that_is_no_more(tmp_path):
    model = Net()
    model.body[1] = None
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", custom_objects={"Net": Net})
    assert list(loaded.body._modules) == ["0", "1", "2"]
    assert loaded.body._modules["1"] is None


def test_a_part_that_was_shared_later(tmp_path):
    model = Net()
    model.body[2] = model.body[0]
    model.norm = model.body
    loaded = come_back(model, tmp_path / "model")
    assert loaded.body[2] is loaded.body[0]
    assert loaded.norm is loaded.body


class Layered(Net):
    def __init__(self):
        super().__init__()
        self.body = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)


def test_inside_of_what_was_replaced(tmp_path):
    """Where both an old and a new part stand at the same names, the new one is meant."""
    model = Layered()
    model.body = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True)
    model.norm = model.body.norm1
    save_model(model, tmp_path / "model", example=X)
    loaded = load_model(tmp_path / "model", custom_objects={"Layered": Layered}, replay=True)
    assert loaded.norm is loaded.body.norm1


def test_layers_that_are_different_from_those_that_they_were_copied_of(tmp_path):
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    model = nn.TransformerEncoder(layer, 3, nn.LayerNorm(8))
    model.layers[1].dropout1.p = 0.7
    model.layers[2] = nn.TransformerEncoderLayer(8, 4, 6, norm_first=True, batch_first=True)
    loaded = come_back(model, tmp_path / "model")
    assert [layer.dropout1.p for layer in loaded.layers] == [0.1, 0.7, 0.1]


def test_a_layer_that_is_used_elsewhere_too(tmp_path):
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), 2)
    loaded = come_back(nn.Sequential(encoder, encoder.layers[0]), tmp_path / "model")
    assert loaded[1] is loaded[0].layers[0]


class Table(nn.Module):
    """Holds values that are no state, and cannot be described by itself."""

    def __init__(self, rows):
        super().__init__()
        self.table = torch.arange(rows) / rows
        self.register_buffer("loose", torch.ones(rows) / 3, persistent=False)

    def forward(self, x):
        return x * self.table * self.loose


class Valued(Net):
    def __init__(self, width: int = 8):
        super().__init__(width)
        self.norm = Table(width)


def test_beside_values_that_are_no_state(tmp_path):
    model = Valued()
    model.head = nn.Linear(8, 2)
    save_model(model, tmp_path / "model", example=X)
    load_model(tmp_path / "model", custom_objects={"Valued": Valued}, replay=True)


class Listing(Net):
    def __init__(self, width: int = 8):
        super().__init__(width)
        self.all = [self.head]


def test_what_is_still_held_elsewhere_is_refused(tmp_path):
    model = Listing()
    model.head = nn.Linear(8, 4)
    with pytest.raises(errors.UnsupportedObjectError, match="comes out with all="):
        save_model(model, tmp_path / "model")


def test_what_cannot_be_compared_any_more_is_refused(tmp_path):
    class Drawing(Net):
        def __init__(self, width: int = 8):
            super().__init__(width)
            self.source = (self.head for _ in range(3))

    save_model(Drawing(), tmp_path / "model")
    model = Drawing()
    model.head = nn.Linear(8, 5)
    with pytest.raises(errors.UnsupportedObjectError, match="source=.*cannot be compared"):
        save_model(model, tmp_path / "model")


def test_a_part_that_was_taken_out_is_refused(tmp_path):
    model = Net()
    del model.norm
    with pytest.raises(errors.UnsupportedObjectError, match="'norm' is in the model when"):
        save_model(model, tmp_path / "model")
