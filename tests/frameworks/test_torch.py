"""PyTorch: tensors, modules, optimizers, schedulers, scalers and generators."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

import milepost
from milepost import Checkpoint, errors
from milepost.testing import FrameworkTests


def make_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for step in range(steps):
        x = torch.linspace(-1, 1, 24).reshape(6, 4) * (step + 1)
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


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


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01)),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p),
    "adamax": lambda p: torch.optim.Adamax(p),
    "nadam": lambda p: torch.optim.NAdam(p),
    "radam": lambda p: torch.optim.RAdam(p),
    "asgd": lambda p: torch.optim.ASGD(p),
    "rprop": lambda p: torch.optim.Rprop(p),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "adafactor": lambda p: torch.optim.Adafactor(p),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on_to_the_last_bit(tmp_path, name):
    model = make_model()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 3)
    Checkpoint(model=model, optimizer=optimizer).save(tmp_path)
    train(model, optimizer, 3)
    other = make_model(1)
    other_optimizer = OPTIMIZERS[name](other.parameters())
    plan = Checkpoint(model=other, optimizer=other_optimizer).restore(tmp_path)
    assert plan.is_exact
    train(other, other_optimizer, 3)
    assert same(model.state_dict(), other.state_dict())


def test_lbfgs_with_its_lists_of_tensors(tmp_path):
    def closure():
        optimizer.zero_grad()
        loss = (model(torch.ones(3, 4)) - 1).square().sum()
        loss.backward()
        return loss

    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    for _ in range(2):
        optimizer.step(closure)
    checkpoint = Checkpoint(model=model, optimizer=optimizer)
    checkpoint.save(tmp_path)
    optimizer.step(closure)
    expected = {k: v.clone() for k, v in model.state_dict().items()}
    checkpoint.restore(tmp_path)
    optimizer.step(closure)
    assert same(model.state_dict(), expected)


def test_optimizer_state_goes_by_the_name_of_the_parameter(tmp_path):
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, 2)
    Checkpoint(model=model, optimizer=optimizer).save(tmp_path)
    names = list(milepost.open(tmp_path).latest)
    assert "optimizer/state/model/0.weight/exp_avg" in names
    other = make_model(1)
    backwards = torch.optim.Adam(reversed(list(other.parameters())))
    assert Checkpoint(model=other, optimizer=backwards).restore(tmp_path).is_exact
    for key in ("exp_avg", "exp_avg_sq", "step"):
        mine = optimizer.state[model[3].weight][key]
        assert torch.equal(mine, backwards.state[other[3].weight][key])
    train(model, optimizer)
    train(other, backwards)
    assert same(model.state_dict(), other.state_dict())


def test_a_frozen_parameter_keeps_its_state(tmp_path):
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, 2)
    model[0].requires_grad_(False)
    train(model, optimizer)
    Checkpoint(model=model, optimizer=optimizer).save(tmp_path)
    other = make_model(1)
    other_optimizer = torch.optim.Adam(other.parameters())
    Checkpoint(model=other, optimizer=other_optimizer).restore(tmp_path)
    mine = optimizer.state[model[0].weight]["exp_avg"]
    assert torch.equal(mine, other_optimizer.state[other[0].weight]["exp_avg"])


def test_an_optimizer_of_fewer_parameters_is_refused_and_named(tmp_path):
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer)
    Checkpoint(model=model, optimizer=optimizer).save(tmp_path)
    fewer = torch.optim.Adam(model[3].parameters())
    with pytest.raises(errors.RestoreRefusedError, match="optimizer/state/model/0.weight/exp_avg"):
        Checkpoint(model=model, optimizer=fewer).restore(tmp_path)
    assert fewer.state == {}
    Checkpoint(model=model, optimizer=fewer).restore(tmp_path, strict=False)
    assert torch.equal(
        fewer.state[model[3].weight]["exp_avg"], optimizer.state[model[3].weight]["exp_avg"]
    )


def make_groups(order, schedule=None):
    """A model whose head and body have their own rates, as groups in the given order."""
    model = make_model()
    groups = {
        "head": {"params": list(model[3].parameters()), "lr": 0.1},
        "body": {"params": list(model[0].parameters()), "lr": 0.001},
    }
    optimizer = torch.optim.SGD([groups[name] for name in order], momentum=0.9)
    parts = {"model": model, "optimizer": optimizer}
    if schedule:
        parts["schedule"] = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    return Checkpoint(**parts)


def rates(checkpoint):
    return [group["lr"] for group in checkpoint.optimizer.param_groups]


@pytest.mark.parametrize("order", [["head", "body"], ["body", "head"]])
def test_groups_in_the_order_in_which_they_were_saved_restore_exactly(tmp_path, order):
    first, second = (make_groups(order, lambda epoch: 0.5**epoch) for _ in range(2))
    for _ in range(3):
        first.optimizer.step()
        first.schedule.step()
    # The parameters of a group in another order change nothing.
    second.optimizer.param_groups[0]["params"].reverse()
    first.save(tmp_path)
    assert second.restore(tmp_path).is_exact
    for checkpoint in (first, second):
        checkpoint.optimizer.step()
        checkpoint.schedule.step()
    assert rates(second) == rates(first)


def test_groups_in_another_order_are_refused_because_schedulers_count_them(tmp_path):
    first = make_groups(["head", "body"], lambda epoch: 0.5**epoch)
    first.save(tmp_path)
    swapped = make_groups(["body", "head"], lambda epoch: 0.5**epoch)
    name = "optimizer/param_groups/0/#position: expected 0, found 1"
    with pytest.raises(errors.RestoreRefusedError, match=name):
        swapped.restore(tmp_path)


def test_without_a_strict_restore_options_of_groups_go_by_their_members(tmp_path):
    first = make_groups(["head", "body"])
    for group in first.optimizer.param_groups:
        group["lr"] /= 10  # as a schedule does
    first.save(tmp_path)
    swapped = make_groups(["body", "head"])
    swapped.restore(tmp_path, strict=False)
    assert rates(swapped) == [0.0001, 0.01]
    assert "#position" not in swapped.optimizer.param_groups[0]


def test_a_checkpoint_from_before_positions_and_labels_restores(tmp_path, monkeypatch):
    def make(order=1):
        named = list(make_model().named_parameters())[::order]
        return torch.optim.Adam([{"params": named[:3]}, {"params": named[3:]}])

    with monkeypatch.context() as older:
        older.setattr("milepost.frameworks.torch.optimizer._LABELS", "none")
        Checkpoint(optimizer=make()).save(tmp_path / "labels")
        # As the leaves were called then.
        older.setattr("milepost.frameworks.torch.optimizer._POSITION", "unknown to milepost")
        Checkpoint(optimizer=make()).save(tmp_path / "both")
    assert "optimizer/param_groups/0/param_names/0" in milepost.open(tmp_path / "both").latest
    assert "optimizer/param_groups/0/#position" not in milepost.open(tmp_path / "both").latest
    for path in ("labels", "both"):
        optimizer = make(-1)
        before = [list(group["param_names"]) for group in optimizer.param_groups]
        plan = Checkpoint(optimizer=optimizer).restore(tmp_path / path)
        assert plan.is_exact
        assert plan.count("ignored") == 6
        assert [group["param_names"] for group in optimizer.param_groups] == before


def test_the_names_of_named_parameters_stay_with_their_parameters(tmp_path):
    model = make_model()
    Checkpoint(model=model, optimizer=torch.optim.Adam(model.named_parameters())).save(tmp_path)
    backwards = torch.optim.Adam(reversed(list(model.named_parameters())))
    assert Checkpoint(model=model, optimizer=backwards).restore(tmp_path).is_exact
    [group] = backwards.param_groups
    for name, parameter in zip(group["param_names"], group["params"], strict=True):
        assert parameter is model.get_parameter(name)


def test_options_that_are_tensors_are_the_optimizers_own(tmp_path):
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.01))
    checkpoint = Checkpoint(model=model, optimizer=optimizer)
    checkpoint.save(tmp_path)
    optimizer.param_groups[0]["lr"].fill_(5.0)  # as a schedule does
    for _ in range(2):
        checkpoint.restore(tmp_path)
        rate = optimizer.param_groups[0]["lr"]
        assert isinstance(rate, torch.Tensor)
        assert torch.equal(rate, torch.tensor(0.01))
        rate.fill_(7.0)


class Counting(torch.optim.SGD):
    """State of no parameter, as some optimizers have."""

    def step(self, closure=None):
        self.state["global"] = {"steps": self.state.get("global", {"steps": 0})["steps"] + 1}
        return super().step(closure)


def test_state_of_no_parameter(tmp_path):
    model = make_model()
    optimizer = Counting(model.parameters(), lr=0.1)
    checkpoint = Checkpoint(model=model, optimizer=optimizer)
    checkpoint.save(tmp_path, step=1)
    train(model, optimizer, 2)
    checkpoint.save(tmp_path, step=2)
    other = Counting(model.parameters(), lr=0.1)
    other_checkpoint = Checkpoint(model=model, optimizer=other)
    assert other_checkpoint.restore(tmp_path, step=2).is_exact
    assert other.state["global"] == {"steps": 2}
    assert other_checkpoint.restore(tmp_path, step=1).is_exact
    assert "global" not in other.state


class Averaging(torch.optim.SGD):
    """A `state_dict` with more than PyTorch's own keys."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.1)
        self.average = {"n": 0, "sum": torch.zeros(2)}

    def state_dict(self):
        return {**super().state_dict(), "average": self.average}

    def load_state_dict(self, state):
        self.average = state["average"]
        super().load_state_dict(state)


def test_what_an_optimizers_own_state_dict_adds(tmp_path):
    model = make_model()
    optimizer = Averaging(model.parameters())
    optimizer.average = {"n": 2, "sum": torch.tensor([1.0, 2.0])}
    Checkpoint(model=model, optimizer=optimizer).save(tmp_path)
    other = Averaging(model.parameters())
    assert Checkpoint(model=model, optimizer=other).restore(tmp_path).is_exact
    assert other.average["n"] == 2
    assert other.average["sum"].tolist() == [1.0, 2.0]
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(errors.RestoreRefusedError, match="optimizer/average/n"):
        Checkpoint(model=model, optimizer=plain).restore(tmp_path)


def test_going_back_to_before_the_first_step_clears_the_state(tmp_path):
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters())
    checkpoint = Checkpoint(model=model, optimizer=optimizer)
    checkpoint.save(tmp_path)
    train(model, optimizer)
    checkpoint.restore(tmp_path)
    assert not any(optimizer.state.values())


def test_state_keeps_its_dtype_beside_parameters_of_another(tmp_path):
    """PyTorch's own `load_state_dict` casts it to the parameter's."""
    model = nn.Linear(3, 2).to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.state[model.weight]["momentum_buffer"] = torch.rand(2, 3)
    Checkpoint(model=model, optimizer=optimizer).save(tmp_path)
    expected = optimizer.state[model.weight]["momentum_buffer"].clone()
    optimizer.state.clear()
    Checkpoint(model=model, optimizer=optimizer).restore(tmp_path)
    restored = optimizer.state[model.weight]["momentum_buffer"]
    assert restored.dtype == torch.float32
    assert torch.equal(restored, expected)


def test_nested_state_keeps_its_dtype_and_its_strings(tmp_path):
    model = nn.Linear(3, 2).to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    nested = {"list": [torch.rand(2), (torch.rand(3), 1)], "dict": {"m": torch.rand(2)}}
    optimizer.state[model.weight] = {**nested, "mode": "warm"}
    Checkpoint(model=model, optimizer=optimizer).save(tmp_path)
    other = torch.optim.SGD(model.parameters(), lr=0.1)
    assert Checkpoint(model=model, optimizer=other).restore(tmp_path).is_exact
    state = other.state[model.weight]
    assert state["mode"] == "warm"
    assert torch.equal(state["list"][0], nested["list"][0])
    assert torch.equal(state["list"][1][0], nested["list"][1][0])
    assert torch.equal(state["dict"]["m"], nested["dict"]["m"])


def test_an_optimizer_without_its_model_goes_by_position(tmp_path):
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer)
    Checkpoint(optimizer=optimizer).save(tmp_path)
    assert "optimizer/state/#0/exp_avg" in milepost.open(tmp_path).latest
    other = torch.optim.Adam(make_model(1).parameters())
    assert Checkpoint(optimizer=other).restore(tmp_path).is_exact


SCHEDULERS = {
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 2),
    "multistep": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 4]),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    "restarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "onecycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 20),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "cyclic": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.001, 0.1, step_size_up=3),
    "sequential": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [torch.optim.lr_scheduler.LinearLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)],
        [3],
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_goes_on(tmp_path, name):
    def make():
        optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1, momentum=0.9)
        return Checkpoint(optimizer=optimizer, scheduler=SCHEDULERS[name](optimizer))

    def rates(checkpoint, steps):
        found = []
        for _ in range(steps):
            checkpoint.optimizer.step()
            checkpoint.scheduler.step()
            found.append(checkpoint.optimizer.param_groups[0]["lr"])
        return found

    first, second = make(), make()
    rates(first, 5)
    first.save(tmp_path)
    assert second.restore(tmp_path).is_exact
    assert rates(second, 5) == rates(first, 5)
    assert type(second.scheduler.state_dict()) is type(first.scheduler.state_dict())


def test_plateau_scheduler(tmp_path):
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
    scheduler.step(1.0)
    scheduler.step(2.0)
    checkpoint = Checkpoint(optimizer=optimizer, scheduler=scheduler)
    checkpoint.save(tmp_path)
    scheduler.step(3.0)
    rate = optimizer.param_groups[0]["lr"]
    checkpoint.restore(tmp_path)
    scheduler.step(3.0)
    assert optimizer.param_groups[0]["lr"] == rate == pytest.approx(0.01)


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


def test_an_optimizer_that_fails_to_load_leaves_everything_as_it_was(tmp_path):
    class Failing(Averaging):
        def load_state_dict(self, state):
            super().load_state_dict(state)
            if state["average"]["n"] == 0:
                raise ValueError("not today")

    model = make_model()
    first, second = Averaging(model.parameters()), Failing(model.parameters())
    checkpoint = Checkpoint(model=model, first=first, second=second)
    checkpoint.save(tmp_path)
    train(model, first)
    for optimizer in (first, second):
        optimizer.average["n"] = 3
        optimizer.param_groups[0]["lr"] = 0.5
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="not today"):
        checkpoint.restore(tmp_path)
    assert same(model.state_dict(), before)
    for optimizer in (first, second):
        assert optimizer.average["n"] == 3
        assert optimizer.param_groups[0]["lr"] == 0.5


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
