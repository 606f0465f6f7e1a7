"""PyTorch: tensors, modules, scalers and generators."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

import milepost
from milepost import Checkpoint, errors
from milepost.testing import FrameworkTests
from tests.frameworks.torch_models import make_model, same, train


class TestTensor(FrameworkTests):
    def make(self):
        return torch.arange(6.0).reshape(2, 3)

    def change(self, value):
        return value.add_(1)


class TestModule(FrameworkTests):
    def make(self):
        return make_model()

    def change(self, value):
        train(value, torch.optim.SGD(value.parameters(), lr=0.1))
        return value


class TestModuleAndOptimizer(FrameworkTests):
    def make(self):
        model = make_model()
        return {"model": model, "optimizer": torch.optim.Adam(model.parameters())}

    def change(self, value):
        train(value["model"], value["optimizer"])
        return value


class TestGenerator(FrameworkTests):
    def make(self):
        return torch.Generator().manual_seed(3)

    def change(self, value):
        torch.rand(5, generator=value)
        return value


class TestGradScaler(FrameworkTests):
    def make(self):
        return torch.amp.GradScaler("cpu", init_scale=1024.0)

    def change(self, value):
        # What `update` does when a gradient overflowed.
        value.load_state_dict({**value.state_dict(), "scale": value.get_scale() / 2})
        return value


DTYPES = [
    *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
]


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype(tmp_path, name):
    dtype = getattr(torch, name)
    tensor = torch.tensor([[1, 0, 2], [4, 0.5, 1]]).to(dtype)
    expected = tensor.clone()
    Checkpoint(t=tensor).save(tmp_path)
    assert milepost.open(tmp_path).latest.spec("t").dtype == name
    tensor.zero_()
    Checkpoint(t=tensor).restore(tmp_path)
    raw = torch.uint8
    assert torch.equal(tensor.view(raw), expected.view(raw))


def test_bfloat16_is_ml_dtypes_bfloat16(tmp_path):
    Checkpoint(t=torch.tensor([1.5, -2.0], dtype=torch.bfloat16)).save(tmp_path)
    loaded = np.asarray(milepost.open(tmp_path).latest["t"])
    assert loaded.dtype == ml_dtypes.bfloat16
    assert loaded.astype(float).tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(12.0).reshape(3, 4).T,
        lambda: torch.arange(12.0)[::3],
        lambda: torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        lambda: torch.zeros(0, 3),
        lambda: torch.tensor(5.0),
        lambda: torch.ones(2, 3, dtype=torch.complex64).conj(),
        lambda: torch.arange(4.0).requires_grad_(),
    ],
)
def test_strided_empty_scalar_and_conjugate_tensors(tmp_path, make):
    tensor, target = make(), make()
    expected = tensor.detach().clone()
    with torch.no_grad():
        target.zero_() if target.numel() else None
    Checkpoint(t=tensor).save(tmp_path)
    Checkpoint(t=target).restore(tmp_path)
    assert target.stride() == make().stride()
    assert torch.equal(target.detach(), expected)


def with_buffer(tensor):
    module = nn.Linear(2, 2)
    module.register_buffer("b", tensor)
    return module


def made_in_inference_mode():
    with torch.inference_mode():
        return torch.ones(3)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.eye(3).to_sparse(), "layout torch.sparse_coo"),
        (
            lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
            "dtype torch.qint8",
        ),
        (lambda: torch.ones(2, device="meta"), "on the meta device.*to_empty"),
        (lambda: nn.Linear(2, 2, device="meta"), "weight is on the meta device.*to_empty"),
        (
            lambda: torch.optim.Adam(nn.Linear(2, 2, device="meta").parameters()),
            "holds parameters on the meta device.*to_empty",
        ),
        (lambda: torch.zeros(1).expand(4), r"shape \[4\] but fewer.*contiguous"),
        (lambda: with_buffer(torch.zeros(2, 1).expand(2, 3)), r"b has the shape \[2, 3\]"),
        (lambda: made_in_inference_mode(), "inference_mode.*clone it outside"),
        (lambda: with_buffer(made_in_inference_mode()), "b was made in torch.inference_mode"),
        (lambda: nn.LazyLinear(3), "is lazy; run one batch first"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_cannot_be_saved_says_why(tmp_path, make, reason):
    with pytest.raises(errors.UnsupportedObjectError, match=f"thing.*{reason}"):
        Checkpoint(thing=make()).save(tmp_path / "s")


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(2, 2, device="meta"),
        lambda: with_buffer(torch.zeros(1).expand(4)),
        lambda: with_buffer(made_in_inference_mode()),
    ],
    ids=["meta", "expanded", "inference"],
)
def test_what_cannot_be_changed_in_place_is_refused_before_anything_is(tmp_path, make):
    whole = with_buffer(torch.ones(make().b.shape)) if hasattr(make(), "b") else nn.Linear(2, 2)
    Checkpoint(first=torch.ones(2), net=whole).save(tmp_path)
    first = torch.zeros(2)
    with pytest.raises(errors.UnsupportedObjectError, match="net/"):
        Checkpoint(first=first, net=make()).restore(tmp_path)
    assert not first.any()


def test_a_model_from_the_meta_device_restores_once_it_is_real(tmp_path):
    def make(device):
        net = nn.Linear(4, 2, device=device).to_empty(device="cpu")
        return Checkpoint(net=net, optimizer=torch.optim.Adam(net.parameters()))

    real, other = make("cpu"), make("meta")
    with torch.no_grad():
        real.net.weight.fill_(1)
    real.save(tmp_path)
    assert other.restore(tmp_path).is_exact
    assert torch.equal(other.net.weight, real.net.weight)
    assert other.optimizer.param_groups[0]["params"][0] is other.net.weight


def test_a_view_that_only_looks_expanded_restores(tmp_path):
    module = with_buffer(torch.arange(3.0).expand((1, -1)))
    Checkpoint(net=module).save(tmp_path)
    other = with_buffer(torch.zeros(3).expand((1, -1)))
    assert Checkpoint(net=other).restore(tmp_path).is_exact
    assert other.b.tolist() == [[0, 1, 2]]


def test_inside_of_inference_mode_its_tensors_restore(tmp_path):
    with torch.inference_mode():
        module = nn.Linear(2, 2)
        checkpoint = Checkpoint(net=module, random=milepost.RandomState())
        checkpoint.save(tmp_path)
        expected = module.weight.clone()
        module.weight.zero_()
        checkpoint.restore(tmp_path)
        assert torch.equal(module.weight, expected)


def test_tied_weights_are_written_once_and_stay_tied(tmp_path):
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(50, 20)
            self.head = nn.Linear(20, 50, bias=False)
            self.head.weight = self.embedding.weight

    model = Language()
    report = Checkpoint(model=model).save(tmp_path)
    assert report.written < 50 * 20 * 4 + 1000
    assert milepost.open(tmp_path).latest.manifest.ties == {
        "model/head.weight": "model/embedding.weight"
    }
    other = Language()
    Checkpoint(model=other).restore(tmp_path)
    assert other.head.weight is other.embedding.weight
    assert torch.equal(other.head.weight, model.head.weight)


def test_buffers_and_extra_state(tmp_path):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(2))
            self.register_buffer("scratch", torch.zeros(2), persistent=False)
            self.log: list = []

        def get_extra_state(self):
            return {"log": self.log}

        def set_extra_state(self, state):
            self.log = state["log"]

    model = Counting()
    model.seen += 5
    model.scratch += 5
    model.log = ["a", 1]
    Checkpoint(model=model).save(tmp_path)
    other = Counting()
    assert Checkpoint(model=other).restore(tmp_path).is_exact
    assert other.seen.tolist() == [5, 5]
    assert other.scratch.tolist() == [0, 0]
    assert other.log == ["a", 1]


class Fussy(nn.Module):
    """Extra state that may fail to be set, beside a parameter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.count = 0
        self.fails = False

    def get_extra_state(self):
        return {"count": self.count}

    def set_extra_state(self, state):
        if self.fails:
            raise ValueError("not today")
        self.count = state["count"]


def test_extra_state_that_fails_leaves_everything_as_it_was(tmp_path):
    parts = nn.Sequential(nn.Linear(2, 2), Fussy(), Fussy())
    checkpoint = Checkpoint(net=parts)
    checkpoint.save(tmp_path)
    with torch.no_grad():
        for parameter in parts.parameters():
            parameter.add_(1)
    parts[1].count, parts[2].fails = 5, True
    before = {k: v.clone() for k, v in parts.named_parameters()}
    with pytest.raises(ValueError, match="not today"):
        checkpoint.restore(tmp_path)
    assert same(dict(parts.named_parameters()), before)
    assert parts[1].count == 5


def test_parameters_keep_their_identity_and_grad_flag(tmp_path):
    model = make_model()
    model[0].weight.requires_grad_(False)
    weight = model[0].weight
    Checkpoint(model=model).save(tmp_path)
    with torch.no_grad():
        weight.zero_()
    Checkpoint(model=model).restore(tmp_path)
    assert model[0].weight is weight
    assert not weight.requires_grad
    assert weight.abs().sum() > 0


def test_a_model_whose_shapes_changed_is_refused_and_untouched(tmp_path):
    Checkpoint(model=nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))).save(tmp_path)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(errors.RestoreRefusedError) as caught:
        Checkpoint(model=model).restore(tmp_path)
    assert "model/1.weight: expected float32[3, 8], found float32[2, 8]" in str(caught.value)
    assert same(model.state_dict(), before)
    Checkpoint(model=model).restore(tmp_path, strict=False)
    assert not torch.equal(model[0].weight, before["0.weight"])
    assert torch.equal(model[1].weight, before["1.weight"])


@pytest.mark.parametrize(
    "wrap", [lambda model: torch.compile(model, backend="eager"), nn.DataParallel]
)
def test_a_wrapped_model_has_the_names_of_what_is_inside(tmp_path, wrap):
    model = make_model()
    Checkpoint(model=wrap(model)).save(tmp_path)
    other = make_model(1)
    assert Checkpoint(model=other).restore(tmp_path).is_exact
    assert same(other.state_dict(), model.state_dict())


@pytest.mark.parametrize("compiled_first", [True, False])
def test_a_model_with_a_compiled_part_has_the_names_of_one_without(tmp_path, compiled_first):
    def make(is_compiled):
        model = make_model()
        if is_compiled:
            model[0] = torch.compile(model[0], backend="eager")
        optimizer = torch.optim.Adam(model.parameters())
        return Checkpoint(model=model, optimizer=optimizer)

    first, other = make(compiled_first), make(not compiled_first)
    train(first.model, first.optimizer)
    first.save(tmp_path)
    assert "optimizer/state/model/0.weight/exp_avg" in milepost.open(tmp_path).latest
    assert other.restore(tmp_path).is_exact
    for mine, theirs in zip(first.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        states = [c.optimizer.state[p] for c, p in ((first, mine), (other, theirs))]
        assert torch.equal(states[0]["exp_avg"], states[1]["exp_avg"])


def test_global_generator(tmp_path):
    checkpoint = Checkpoint(random=milepost.RandomState())
    torch.manual_seed(5)
    torch.rand(3)
    checkpoint.save(tmp_path)
    expected = torch.randn(4)
    checkpoint.restore(tmp_path)
    assert torch.equal(torch.randn(4), expected)
