"""`Checkpoint`: save, restore and plan, over plain Python and NumPy objects."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import milepost
from milepost import Checkpoint, errors


def test_the_path_that_is_saved_to_is_the_path_to_restore_from(tmp_path: Path):
    path = tmp_path / "path" / "to" / "checkpoint"
    progress = {"epoch": 3}
    weights = np.arange(6.0)
    Checkpoint(progress=progress, weights=weights).save(path)
    progress["epoch"], weights[:] = 0, 0
    Checkpoint(progress=progress, weights=weights).restore(str(path))
    assert progress == {"epoch": 3}
    assert weights.tolist() == [0, 1, 2, 3, 4, 5]


def test_steps_are_numbered_from_one(tmp_path: Path):
    checkpoint = Checkpoint(n=[0])
    assert [checkpoint.save(tmp_path).step for _ in range(3)] == [1, 2, 3]
    assert checkpoint.save(tmp_path, step=10).step == 10
    assert checkpoint.save(tmp_path).step == 11


def test_a_step_can_be_chosen(tmp_path: Path):
    state = {"n": 0, "loss": 0.0}
    checkpoint = Checkpoint(state=state)
    for n, loss in [(1, 0.5), (2, 0.1), (3, 0.7)]:
        state.update(n=n, loss=loss)
        checkpoint.save(tmp_path, metrics={"val_loss": loss})
    for step, expected in [(1, 1), ("latest", 3), ("best:val_loss", 2), ("max:val_loss", 3)]:
        plan = checkpoint.restore(tmp_path, step)
        assert state["n"] == expected
        assert plan.step == expected


def test_the_report_says_what_was_written(tmp_path: Path):
    checkpoint = Checkpoint(a=np.zeros(1000), n=1)
    report = checkpoint.save(tmp_path)
    assert (report.step, report.leaves, report.nbytes) == (1, 2, 8000)
    assert report.path == str(tmp_path)
    assert report.written == 8000
    assert checkpoint.save(tmp_path).written == 0


def test_values_that_cannot_be_changed_are_read_back_as_attributes(tmp_path: Path):
    checkpoint = Checkpoint(step=5, pair=(1, np.ones(2)), name="run")
    checkpoint.save(tmp_path)
    other = Checkpoint(step=0, pair=(0, np.zeros(2)), name="")
    other.restore(tmp_path)
    assert (other.step, other.name) == (5, "run")
    assert other.pair[0] == 1
    other.step = 6
    other.save(tmp_path)
    checkpoint.restore(tmp_path)
    assert checkpoint.objects["step"] == 6


def test_names_of_objects():
    with pytest.raises(errors.UsageError, match="'save' cannot be the name"):
        Checkpoint(save=1)
    with pytest.raises(errors.UsageError, match="needs objects"):
        Checkpoint()
    checkpoint = Checkpoint(a=1)
    with pytest.raises(AttributeError, match="no object 'b'"):
        _ = checkpoint.b
    with pytest.raises(AttributeError, match="no object 'b'; it has a"):
        checkpoint.b = 2


def test_arrays_are_restored_in_place(tmp_path: Path):
    array = np.arange(10.0)
    view = array[::2]
    Checkpoint(a=array).save(tmp_path)
    array[:] = -1
    Checkpoint(a=array).restore(tmp_path)
    assert view.tolist() == [0, 2, 4, 6, 8]


def test_a_strided_view_is_saved_and_restored_as_it_is(tmp_path: Path):
    base = np.arange(12.0).reshape(3, 4)
    Checkpoint(a=base.T[1:]).save(tmp_path)
    base[:] = 0
    Checkpoint(a=base.T[1:]).restore(tmp_path)
    assert base.tolist() == [[0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11]]


def test_a_list_grows_and_shrinks_to_what_was_saved(tmp_path: Path):
    history = [0.5, 0.4]
    checkpoint = Checkpoint(history=history)
    checkpoint.save(tmp_path, step=1)
    history += [0.3, 0.2, 0.1]
    checkpoint.save(tmp_path, step=2)
    checkpoint.restore(tmp_path, step=1)
    assert history == [0.5, 0.4]
    plan = checkpoint.restore(tmp_path, step=2)
    assert history == [0.5, 0.4, 0.3, 0.2, 0.1]
    assert plan.count("added") == 3
    history.clear()
    checkpoint.save(tmp_path, step=3)
    history.append(9)
    checkpoint.restore(tmp_path, step=3)
    assert history == []


def test_a_dict_gains_keys_and_nested_containers(tmp_path: Path):
    Checkpoint(progress={"epoch": 1, "best": {"loss": [0.1], 3: (1, 2)}}).save(tmp_path)
    progress = {"epoch": 0}
    Checkpoint(progress=progress).restore(tmp_path)
    assert progress == {"epoch": 1, "best": {"loss": [0.1], 3: (1, 2)}}
    assert isinstance(progress["best"][3], tuple)


def test_a_key_that_was_not_saved_is_missing(tmp_path: Path):
    Checkpoint(progress={"epoch": 1}).save(tmp_path)
    progress = {"epoch": 0, "best": 7}
    with pytest.raises(
        errors.RestoreRefusedError, match="progress/best: expected int, found nothing"
    ):
        Checkpoint(progress=progress).restore(tmp_path)
    assert progress == {"epoch": 0, "best": 7}
    Checkpoint(progress=progress).restore(tmp_path, strict=False)
    assert progress == {"epoch": 1, "best": 7}


def test_arrays_in_containers_do_not_come_and_go(tmp_path: Path):
    Checkpoint(layers=[np.zeros(2), np.zeros(3)]).save(tmp_path)
    for layers in ([np.ones(2)], [np.ones(2), np.ones(3), np.ones(4)], [np.ones(2), np.ones(4)]):
        before = [a.copy() for a in layers]
        with pytest.raises(errors.RestoreRefusedError):
            Checkpoint(layers=layers).restore(tmp_path)
        assert all(np.array_equal(a, b) for a, b in zip(layers, before, strict=True))


def test_state_dict_objects_take_whatever_was_saved(tmp_path: Path):
    class Loader:
        def __init__(self, state):
            self.state = state

        def state_dict(self):
            return self.state

        def load_state_dict(self, state):
            self.state = state

    saved = {"position": 5, "buffer": [np.arange(3)], "worker": {0: {"seed": 2**100}}, "done": ()}
    Checkpoint(loader=Loader(saved)).save(tmp_path)
    loader = Loader({"unlike": [1, 2, 3]})
    plan = Checkpoint(loader=loader).restore(tmp_path)
    assert plan.is_exact
    assert loader.state["buffer"][0].tolist() == [0, 1, 2]
    loader.state["buffer"] = saved["buffer"] = None
    assert loader.state == saved


def test_a_restore_that_fails_half_way_is_undone(tmp_path: Path):
    class Stubborn:
        value = 1

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, state):
            self.value = state["value"]
            if state["value"] == 13:
                raise RuntimeError("not 13")

    stubborn, progress, history, array = Stubborn(), {"epoch": 1}, [1], np.ones(3)
    checkpoint = Checkpoint(a=array, progress=progress, history=history, stubborn=stubborn)
    stubborn.value = 13
    progress.update(epoch=2, extra=1)
    history.append(2)
    array[:] = 5
    checkpoint.save(tmp_path)
    stubborn.value = 1
    progress.pop("extra")
    progress["epoch"] = 1
    history.pop()
    array[:] = 1
    with pytest.raises(RuntimeError, match="not 13"):
        checkpoint.restore(tmp_path)
    assert stubborn.value == 1
    assert progress == {"epoch": 1}
    assert history == [1]
    assert array.tolist() == [1, 1, 1]


def test_an_object_of_no_known_kind_says_which_leaf(tmp_path: Path):
    class Unknown:
        pass

    with pytest.raises(
        errors.UnsupportedObjectError, match=r"config/inner/1 is a .*Unknown.*state_dict"
    ):
        Checkpoint(config={"inner": [1, Unknown()]}).save(tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_lambda_cannot_be_saved_and_says_so(tmp_path: Path):
    with pytest.raises(
        errors.UnsupportedObjectError, match="schedule/fn is the function '<lambda>'"
    ):
        Checkpoint(schedule={"fn": lambda x: x}).save(tmp_path)
    with pytest.raises(errors.UnsupportedObjectError, match="dtype object cannot be saved"):
        Checkpoint(a=np.array([object()])).save(tmp_path)
    with pytest.raises(errors.UnsupportedObjectError, match=r"key b'x' of type bytes"):
        Checkpoint(a={b"x": 1}).save(tmp_path)
    assert os.listdir(tmp_path) == []


def test_an_object_that_contains_itself(tmp_path: Path):
    loop: list = [1]
    loop.append({"again": loop})
    with pytest.raises(errors.UnsupportedObjectError, match="a/1/again contains itself"):
        Checkpoint(a=loop).save(tmp_path)


def test_two_leaves_of_one_name(tmp_path: Path):
    with pytest.raises(errors.UnsupportedObjectError, match="two leaves have the name 'a/1'"):
        Checkpoint(a={1: "int", "1": "str"}).save(tmp_path)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: None, errors.PathNotFoundError),
        (lambda path: path.mkdir(), errors.NotAStoreError),
        (lambda path: path.write_text("no store"), errors.UnknownFormatError),
        (lambda path: Checkpoint(b=1).save(path), errors.RestoreRefusedError),
    ],
)
def test_what_cannot_be_restored_from(tmp_path: Path, make, error):
    path = tmp_path / "place"
    make(path)
    array = np.ones(3)
    with pytest.raises(error, match="place"):
        Checkpoint(a=array).restore(path)
    assert array.tolist() == [1, 1, 1]
    if path.is_dir() and error is errors.NotAStoreError:
        assert list(path.iterdir()) == []


def test_saving_to_a_file_or_a_folder_of_something_else(tmp_path: Path):
    (tmp_path / "file").write_text("a letter")
    with pytest.raises(errors.NotAStoreError, match="is a file"):
        Checkpoint(a=1).save(tmp_path / "file")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_text("")
    with pytest.raises(errors.NotAStoreError, match="not empty"):
        Checkpoint(a=1).save(tmp_path / "photos")
    assert (tmp_path / "file").read_text() == "a letter"


def test_a_shared_array_is_one_object_and_stays_one(tmp_path: Path):
    shared = np.arange(1000.0)
    report = Checkpoint(a={"x": shared, "y": shared}).save(tmp_path)
    assert report.written == 8000
    assert milepost.open(tmp_path).latest.manifest.ties == {"a/y": "a/x"}


def test_arrays_that_are_one_here_must_be_equal_in_the_checkpoint(tmp_path: Path):
    """Otherwise the last of them would win, in silence."""
    Checkpoint(a={"x": np.zeros(3), "y": np.ones(3)}).save(tmp_path)
    shared = np.full(3, 7.0)
    with pytest.raises(errors.RestoreRefusedError, match="a/y: shares its memory with a/x here"):
        Checkpoint(a={"x": shared, "y": shared}).restore(tmp_path)
    assert shared.tolist() == [7, 7, 7]


def test_save_state_and_load_state(tmp_path: Path):
    tree = {"w": np.arange(3.0), 1: [np.float32(2), (None, "x")], "empty": {}}
    milepost.save_state(tmp_path, tree, step=4, metrics={"loss": 1})
    loaded = milepost.load_state(tmp_path)
    assert loaded["w"].tolist() == [0, 1, 2]
    assert loaded[1] == [np.float32(2), (None, "x")]
    assert type(loaded[1][0]) is np.float32
    assert loaded["empty"] == {}
    like = {"w": np.zeros(3), 1: [np.float32(0), (None, "")], "empty": {}}
    assert milepost.load_state(tmp_path, like=like)[1][1] == (None, "x")
    with pytest.raises(errors.UsageError, match="strict need like="):
        milepost.load_state(tmp_path, strict=False)
    with pytest.raises(errors.RestoreRefusedError):
        milepost.load_state(tmp_path, like={"w": np.zeros(4)})


@pytest.mark.parametrize(
    "objects", [{"a": {"\ud800": 1}}, {"a": {"\ud800": {}}}, {"a": [{"x\udfff": np.ones(1)}]}]
)
def test_names_without_a_utf_8_form_are_refused(tmp_path: Path, objects):
    with pytest.raises(errors.UnsupportedObjectError):
        Checkpoint(**objects).save(tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_huge_number_comes_back(tmp_path: Path):
    Checkpoint(a=[10**5000]).save(tmp_path)
    found = [0]
    Checkpoint(a=found).restore(tmp_path)
    assert found == [10**5000]
