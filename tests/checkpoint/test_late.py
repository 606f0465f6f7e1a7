"""Leaves that a restore reads last, straight into live memory: when all were found sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from milepost import Checkpoint, errors
from milepost.store.snapshot import CheckpointSnapshot

# A network, its optimizer, a NumPy array, and two variables that are handed their values.
PROGRAM = """
    import sys, threading, time
    import numpy as np
    import milepost

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    def growth(action):
        peak, stopped = [resident()], threading.Event()
        def watch():
            while not stopped.is_set():
                peak.append(resident())
                time.sleep(0.0005)
        watcher = threading.Thread(target=watch)
        watcher.start()
        action()
        stopped.set()
        watcher.join()
        return max(peak) - peak[0]
"""


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8))
    optimizer = torch.optim.AdamW(net.parameters(), amsgrad=True)
    step(net, optimizer)
    return net, optimizer


def step(net: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    net(torch.ones(4, 8)).square().sum().backward()
    optimizer.step()


def tensors(net, optimizer) -> list[torch.Tensor]:
    states = [t for state in optimizer.state.values() for t in state.values()]
    return [*net.state_dict(keep_vars=True).values(), *states]


def test_tensors_stay_where_they_are(tmp_path: Path):
    net, optimizer = trained()
    saved = [tensor.detach().clone() for tensor in tensors(net, optimizer)]
    checkpoint = Checkpoint(net=net, optimizer=optimizer)
    checkpoint.save(tmp_path)
    step(net, optimizer)
    before = tensors(net, optimizer)
    checkpoint.restore(tmp_path)
    after = tensors(net, optimizer)
    assert [t.data_ptr() for t in after] == [t.data_ptr() for t in before]
    for now, then in zip(after, saved, strict=True):
        assert torch.equal(now, then)
    step(net, optimizer)  # they still belong together
    assert not torch.equal(tensors(net, optimizer)[0], saved[0])


def test_a_backward_pass_notices_that_what_it_needs_has_changed(tmp_path: Path):
    weight = torch.ones(3, requires_grad=True)
    checkpoint = Checkpoint(weight=weight)
    checkpoint.save(tmp_path)
    loss = (weight * weight).sum()
    checkpoint.restore(tmp_path)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    "live",
    [
        torch.zeros(6, 4).t(),
        torch.zeros(4, 12)[:, ::2],
        torch.zeros(4, 6, dtype=torch.bfloat16),
        np.zeros((6, 4), np.float32).T,
        np.zeros((4, 6), ">f4"),
        np.zeros((4, 0, 6)),
        np.zeros((), np.int64),
    ],
    ids=str,
)
def test_whatever_lies_in_memory_in_whatever_way(tmp_path: Path, live):
    values = np.arange(live.numel() if isinstance(live, torch.Tensor) else live.size) % 7
    filled = values.reshape(live.shape)
    live[...] = torch.from_numpy(filled) if isinstance(live, torch.Tensor) else filled
    checkpoint = Checkpoint(live=live)
    checkpoint.save(tmp_path)
    live[...] = 0
    checkpoint.restore(tmp_path)
    found = live.float().numpy() if isinstance(live, torch.Tensor) else live
    np.testing.assert_array_equal(found, filled)


def test_a_read_only_array_is_another_afterwards(tmp_path: Path):
    constant = np.arange(5)
    constant.flags.writeable = False
    Checkpoint(constant=constant).save(tmp_path)
    zeros = np.zeros(5, np.int64)
    zeros.flags.writeable = False
    checkpoint = Checkpoint(constant=zeros)
    checkpoint.restore(tmp_path)
    assert checkpoint.constant.tolist() == list(range(5))
    assert not zeros.any()


class Halved(torch.nn.Linear):
    """A module whose `state_dict` hands out tensors that are not its own."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.register_state_dict_post_hook(self._halve)
        self.register_load_state_dict_pre_hook(self._double)

    @staticmethod
    def _halve(module, state, prefix, metadata):
        state[prefix + "weight"] = state[prefix + "weight"] / 2

    @staticmethod
    def _double(module, state, prefix, *_):
        state[prefix + "weight"] = state[prefix + "weight"] * 2


def test_a_module_that_saves_other_tensors_than_its_own(tmp_path: Path):
    net = Halved()
    expected = net.weight.detach().clone()
    Checkpoint(net=net).save(tmp_path)
    other = Halved()
    Checkpoint(net=other).restore(tmp_path)
    assert torch.equal(other.weight, expected)


def test_an_optimizer_whose_hook_looks_at_its_state(tmp_path: Path):
    net, optimizer = trained()
    Checkpoint(net=net, optimizer=optimizer).save(tmp_path)
    expected = [state["exp_avg"].clone() for state in optimizer.state.values()]
    step(net, optimizer)

    def copies(optimizer) -> None:
        for state in optimizer.state.values():
            state["exp_avg"] = state["exp_avg"].clone()

    optimizer.register_load_state_dict_post_hook(copies)
    Checkpoint(net=net, optimizer=optimizer).restore(tmp_path)
    found = [state["exp_avg"] for state in optimizer.state.values()]
    assert all(map(torch.equal, found, expected))


def many() -> dict[str, np.ndarray]:
    return {f"a{i}": np.full((50, 30), i, np.float64) for i in range(20)}


@pytest.mark.parametrize("last", ["a0", "a19"])
def test_damage_is_found_before_anything_changes(tmp_path: Path, last: str):
    Checkpoint(many=many()).save(tmp_path)
    with Checkpoint(many=many())._open(tmp_path, "latest") as snapshot:
        position = snapshot.record(f"many/{last}").chunks[0].position
    [pack] = (tmp_path / "data").iterdir()
    data = bytearray(pack.read_bytes())
    data[position + 100] ^= 1
    pack.write_bytes(data)
    live = {name: np.zeros((50, 30)) for name in many()}
    with pytest.raises(errors.DamagedError, match=f"leaf 'many/{last}'"):
        Checkpoint(many=live).restore(tmp_path)
    assert not any(array.any() for array in live.values())


def test_what_is_damaged_after_it_was_checked_is_told(tmp_path: Path, monkeypatch):
    Checkpoint(many=many()).save(tmp_path)
    [pack] = (tmp_path / "data").iterdir()
    check = CheckpointSnapshot.check

    def check_then_damage(snapshot, names):
        check(snapshot, names)
        data = bytearray(pack.read_bytes())
        data[-100] ^= 1
        pack.write_bytes(data)

    monkeypatch.setattr(CheckpointSnapshot, "check", check_then_damage)
    live = {name: np.zeros((50, 30)) for name in many()}
    with pytest.raises(errors.DamagedError, match="leaf 'many/a") as raised:
        Checkpoint(many=live).restore(tmp_path)
    assert "restore again" in raised.value.__notes__[0]


def test_small_leaves_are_read_once(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("milepost.checkpoint.late.SMALL_BYTES", 12_001)
    live = many() | {"large": np.ones(5000)}
    Checkpoint(many=live).save(tmp_path)
    checked = []
    monkeypatch.setattr(CheckpointSnapshot, "check", lambda self, names: checked.extend(names))
    Checkpoint(many=live).restore(tmp_path)
    assert checked == ["many/large"]


def test_a_restore_needs_no_second_copy_of_tensors(tmp_path: Path, run_program):
    finished = run_program(
        PROGRAM
        + """
    import torch
    net = torch.nn.Sequential(*(torch.nn.Linear(2000, 2000) for _ in range(10)))
    optimizer = torch.optim.Adam(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    checkpoint = milepost.Checkpoint(net=net, optimizer=optimizer)  # 480 MB
    checkpoint.save("store")
    print(growth(lambda: checkpoint.restore("store")))
    """
    )
    assert int(finished.stdout) < 64_000_000


def test_a_restore_needs_no_second_copy_of_variables(tmp_path: Path, run_program):
    finished = run_program(
        PROGRAM
        + """
    import tensorflow as tf
    variables = {str(i): tf.Variable(tf.ones((2000, 1000)) * i) for i in range(40)}
    checkpoint = milepost.Checkpoint(variables=variables)  # 320 MB
    checkpoint.save("store")
    print(growth(lambda: checkpoint.restore("store")))
    """,
        # What is freed goes back at once: else how much stays depends on which thread is first.
        MALLOC_MMAP_THRESHOLD_="65536",
    )
    assert int(finished.stdout.splitlines()[-1]) < 64_000_000
