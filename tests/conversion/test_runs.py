"""`milepost.import_run`: folders as other tools leave them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import milepost
from milepost.conversion import import_run
from milepost.conversion.layouts import find_run
from milepost.errors import DamagedError, PathNotFoundError, StepExistsError, UsageError


def _touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def _steps(folder: Path) -> dict[int, dict[str, str]]:
    run = find_run(str(folder))
    return {
        step: {prefix: os.path.relpath(path, folder) for prefix, path in parts.items()}
        for step, parts in run.steps.items()
    }


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model_10.pt", "model_2.pt"], {2: "model_2.pt", 10: "model_10.pt"}),
        (["epoch_3.safetensors"], {3: "epoch_3.safetensors"}),
        (
            ["weights.05-0.31.keras", "weights.10-0.29.keras"],
            {5: "weights.05-0.31.keras", 10: "weights.10-0.29.keras"},
        ),
        (["resnet50_1.pt", "resnet50_2.pt"], {1: "resnet50_1.pt", 2: "resnet50_2.pt"}),
        (["resnet50_7.pt"], {7: "resnet50_7.pt"}),
        (["weights.05-0.31.keras"], {5: "weights.05-0.31.keras"}),
        (["cp-0001.weights.h5", "cp-0002.weights.h5"],
         {1: "cp-0001.weights.h5", 2: "cp-0002.weights.h5"}),
        (
            ["epoch=1-step=20.ckpt", "epoch=2-step=40.ckpt", "epoch=2-step=50.ckpt"],
            {20: "epoch=1-step=20.ckpt", 40: "epoch=2-step=40.ckpt", 50: "epoch=2-step=50.ckpt"},
        ),
        (["100/a", "20/a", "metadata.json"], {20: "20", 100: "100"}),
        (["step-1000/.metadata", "step-500/.metadata"], {500: "step-500", 1000: "step-1000"}),
        (
            ["ckpt-1.index", "ckpt-1.data-00000-of-00001", "ckpt-2.index",
             "ckpt-2.data-00000-of-00001", "checkpoint", "events.out.tfevents.17.host"],
            {1: "ckpt-1", 2: "ckpt-2"},
        ),
    ],
)  # fmt: skip
def test_steps_are_told_by_names(tmp_path, names, expected):
    found = _steps(_touch(tmp_path, *names))
    assert found == {step: {"": name} for step, name in expected.items()}
    assert list(found) == sorted(found)


def test_several_files_of_a_step_have_prefixes(tmp_path):
    _touch(tmp_path, "model_1.pt", "optimizer_1.pt", "model_2.pt")
    assert _steps(tmp_path)[1] == {"model": "model_1.pt", "optimizer": "optimizer_1.pt"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["model.pt", "readme.md"], "no checkpoint with a number"),
        (["a=1-step=2.ckpt", "a=1-step=2-v1.ckpt"], "two files for step 2"),
        (["lightning_logs/version_0/a", "lightning_logs/version_1/a"], "has 2 runs"),
    ],
)
def test_a_folder_that_does_not_tell_is_refused(tmp_path, names, message):
    _touch(tmp_path / "run", *names)
    with pytest.raises(UsageError, match=message):
        import_run(tmp_path / "run", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_no_folder(tmp_path):
    with pytest.raises(PathNotFoundError):
        import_run(tmp_path / "none", tmp_path / "store")


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    frozen = np.random.default_rng(0).normal(size=100_000)
    for step in (1, 2, 3):
        arrays = {"frozen": frozen, "head": np.full(10, step, np.float32)}
        save_file(arrays, tmp_path / f"run/model_{step}.safetensors", {"epoch": str(step)})
    (tmp_path / "run/notes.txt").write_text("mine")
    return tmp_path / "run"


def test_numbered_files_share_what_they_have_in_common(numbered, tmp_path):
    report = import_run(numbered, tmp_path / "store")
    assert (report.steps, report.leaves) == ((1, 2, 3), 6)
    assert report.left_out == {"notes.txt": "it is no checkpoint"}
    assert report.written == 800_000 + 3 * 40
    assert report.nbytes == 3 * 800_040
    store = milepost.open(tmp_path / "store")
    assert store.steps == [1, 2, 3]
    for step in store:
        assert np.asarray(store[step]["head"]).tolist() == [step] * 10
        assert store[step].metadata == {"epoch": str(step)}
    assert milepost.verify(tmp_path / "store") == []


def test_a_store_is_no_run(numbered, tmp_path):
    import_run(numbered, tmp_path / "store")
    with pytest.raises(UsageError, match="is a store of milepost's already: copy"):
        import_run(tmp_path / "store", tmp_path / "other")
    assert not (tmp_path / "other").exists()


_IMPORT = """
import os, signal, sys
from milepost.conversion import import_run
calls, last = 0, int(sys.argv[3])

def watch(event, arguments):
    # Each change to the folder that the process makes: a file, a link, a name.
    global calls
    if event in ("open", "os.link", "os.rename", "os.remove") and sys.argv[2] in str(arguments[0]):
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
import_run(sys.argv[1], sys.argv[2], resume=True)
print(calls)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes")
def test_killed_at_any_moment_it_leaves_whole_steps_and_can_be_resumed(
    numbered, tmp_path, run_program
):
    counted = run_program(_IMPORT, str(numbered), str(tmp_path / "counted"), "0")
    calls = int(counted.stdout)
    assert calls > 20
    for last in range(1, calls + 1, max(1, calls // 12)):
        path = tmp_path / f"killed at {last}"
        killed = run_program(_IMPORT, str(numbered), str(path), str(last), status=None)
        assert killed.returncode == -signal.SIGKILL
        if (path / "milepost.json").exists():
            store = milepost.open(path)
            assert store.steps == [1, 2, 3][: len(store.steps)]
            assert milepost.verify(path) == []
        import_run(numbered, path, resume=True)
        store = milepost.open(path)
        assert store.steps == [1, 2, 3]
        assert [np.asarray(store[step]["head"])[0] for step in store] == [1, 2, 3]
        assert milepost.verify(path) == []


def test_steps_that_are_there_are_refused_or_passed_over(numbered, tmp_path):
    import_run(numbered, tmp_path / "store")
    save_file({"head": np.zeros(1)}, numbered / "model_4.safetensors")
    with pytest.raises(StepExistsError, match="step 1 already: pass resume"):
        import_run(numbered, tmp_path / "store")
    report = import_run(numbered, tmp_path / "store", resume=True)
    assert (report.steps, report.present) == ((4,), (1, 2, 3))


def test_damaged_checkpoints_are_refused_or_passed_over(numbered, tmp_path):
    path = numbered / "model_2.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedError, match="step 2: .*skip_damaged"):
        import_run(numbered, tmp_path / "store")
    report = import_run(numbered, tmp_path / "store", resume=True, skip_damaged=True)
    assert (report.steps, report.present, list(report.skipped)) == ((3,), (1,), [2])
    assert milepost.open(tmp_path / "store").steps == [1, 3]


def test_tensorflow(tmp_path):
    tf = pytest.importorskip("tensorflow")
    variable = tf.Variable(np.zeros(5, np.float32))
    checkpoint = tf.train.Checkpoint(v=variable, step=tf.Variable(0, dtype=tf.int64))
    for value in (1, 2):
        variable.assign(np.full(5, value, np.float32))
        checkpoint.save(str(tmp_path / "run/ckpt"))
    report = import_run(tmp_path / "run", tmp_path / "store")
    assert report.steps == (1, 2)
    assert not [name for name in report.left_out if "ckpt-" in name]
    store = milepost.open(tmp_path / "store")
    for value in (1, 2):
        [name] = [n for n in store[value] if n.split("/")[0] == "v"]
        assert np.asarray(store[value][name]).tolist() == [value] * 5


def test_lightning(tmp_path):
    folder = tmp_path / "run/lightning_logs/version_0/checkpoints"
    folder.mkdir(parents=True)
    model = torch.nn.Linear(3, 2)
    for epoch, step, name in (
        (1, 20, "epoch=1-step=20.ckpt"),
        (2, 40, "epoch=2-step=40.ckpt"),
        (3, 55, "last.ckpt"),
    ):
        torch.nn.init.constant_(model.weight, step)
        whole = {"epoch": epoch, "global_step": step, "state_dict": model.state_dict()}
        torch.save(whole | {"pytorch-lightning_version": "2.5.0"}, folder / name)
    report = import_run(tmp_path / "run", tmp_path / "store")
    assert report.steps == (20, 40, 55)
    store = milepost.open(tmp_path / "store")
    for step in store:
        assert store[step]["global_step"] == step
        assert np.asarray(store[step]["state_dict/weight"]).tolist() == [[step] * 3] * 2


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[Path]:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    history: list[dict[str, float]] = []
    for step in (2, 4):
        folder = tmp_path / f"run/checkpoint-{step}"
        folder.mkdir(parents=True)
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        save_file({n: t.numpy() for n, t in model.state_dict().items()},
                  folder / "model.safetensors", {"format": "pt"})  # fmt: skip
        torch.save(optimizer.state_dict(), folder / "optimizer.pt")
        torch.save({"last_epoch": step, "_last_lr": [0.1]}, folder / "scheduler.pt")
        torch.save({"cpu": torch.get_rng_state()}, folder / "rng_state.pth")
        torch.save({"x": step}, folder / "training_args.bin")
        (folder / "config.json").write_text("{}")
        history += [{"loss": 1 / step, "step": step}, {"eval_loss": 2.0, "step": step}]
        state = {"global_step": step, "epoch": step / 2, "log_history": history}
        (folder / "trainer_state.json").write_text(json.dumps(state))
    return tmp_path / "run"


def test_transformers_trainer(trainer, tmp_path):
    report = import_run(trainer, tmp_path / "store")
    assert report.steps == (2, 4)
    assert report.left_out["training_args.bin"] == "it is a pickle of Python objects"
    store = milepost.open(tmp_path / "store")
    assert store[4].metrics == {"loss": 0.25, "eval_loss": 2.0}
    assert store[4].metadata["epoch"] == 2.0
    assert "model/weight" in store[4]
    assert store[4]["scheduler/last_epoch"] == 4
    assert np.asarray(store[4]["random/cpu"]).tolist() == torch.get_rng_state().tolist()
    [moment] = [n for n in store[4] if n.startswith("optimizer/") and n.endswith("0/exp_avg")]
    assert store[4].spec(moment).shape == (2, 3)
    assert store.resolve("min:loss") == 4


def test_a_trainers_checkpoint_without_a_model_is_damaged(trainer, tmp_path):
    (trainer / "checkpoint-4/model.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"step 4: .* no model's file"):
        import_run(trainer, tmp_path / "store")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"log_history": [1]}', '{"log_history": 5}'])
def test_a_trainers_state_that_is_none(trainer, tmp_path, text):
    (trainer / "checkpoint-2/trainer_state.json").write_text(text)
    with pytest.raises(DamagedError, match="is no Trainer's state"):
        import_run(trainer, tmp_path / "store")


def test_orbax(tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        for step in (1, 2):
            state = {"params": {"w": np.full((2, 3), step, np.float32)}}
            manager.save(step, args=ocp.args.StandardSave(state))
    report = import_run(tmp_path / "run", tmp_path / "store")
    assert report.steps == (1, 2)
    store = milepost.open(tmp_path / "store")
    [name] = [n for n in store[2] if n.endswith("params/w")]
    assert np.asarray(store[2][name]).tolist() == [[2.0] * 3] * 2


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_pytorch_distributed(tmp_path):
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    for step in (10, 20):
        dcp.save({"w": torch.full((3,), step)}, checkpoint_id=str(tmp_path / f"run/step-{step}"))
    assert import_run(tmp_path / "run", tmp_path / "store").steps == (10, 20)
    store = milepost.open(tmp_path / "store")
    assert np.asarray(store[20]["w"]).tolist() == [20] * 3
