"""PyTorch: optimizers and schedulers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import milepost
from milepost import Checkpoint, errors
from tests.frameworks.torch_models import make_model, same, train

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
