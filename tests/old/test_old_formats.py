"""What earlier versions wrote is read by this one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import milepost
from tests.old import make

FORMATS = sorted(Path(__file__).parent.glob("format-*"))


@pytest.fixture(params=FORMATS, ids=lambda path: path.name)
def old(request, tmp_path: Path) -> Path:
    """A copy: reading must need no right to write, but a mistake must not change the original."""
    return Path(shutil.copytree(request.param, tmp_path / "old"))


def test_there_is_one_for_every_version_of_the_format():
    from milepost.sealed import FORMAT_VERSION

    assert [path.name for path in FORMATS] == [f"format-{i + 1}" for i in range(FORMAT_VERSION)]


def test_a_store(old: Path):
    assert milepost.verify(old / "store") == []
    store = milepost.open(old / "store")
    assert store.steps == [1, 2]
    assert store.resolve("best:loss") == 2
    assert store.latest.metadata["lr"] == 0.1
    for step in (1, 2):
        empty = make.tree(0)
        for value in empty.values():
            if isinstance(value, np.ndarray):
                value[...] = np.zeros((), value.dtype)
        milepost.Checkpoint(tree=empty).restore(old / "store", step)
        expected = make.tree(step)
        assert list(empty) == list(expected)
        for key, value in expected.items():
            if isinstance(value, np.ndarray):
                assert empty[key].dtype == value.dtype
                assert empty[key].tobytes() == value.tobytes(), key
            else:
                assert empty[key] == value


def test_a_store_goes_on(old: Path):
    checkpoint = milepost.Checkpoint(tree=make.tree(3))
    assert checkpoint.save(old / "store").step == 3
    assert milepost.verify(old / "store") == []


@pytest.mark.parametrize("path", FORMATS[1:], ids=lambda path: path.name)
def test_a_compacted_store(path: Path, tmp_path: Path):
    store = milepost.open(shutil.copytree(path / "compacted", tmp_path / "store"))
    assert milepost.verify(tmp_path / "store") == []
    for step in range(1, 6):
        assert np.array_equal(store[step]["weights"], make.weights(step))
    chunks = [store.manifest(step).records["weights"].chunks[0] for step in store.steps]
    assert any(chunk.encoding and chunk.encoding.base for chunk in chunks)
    assert any(chunk.encoding and not chunk.encoding.base for chunk in chunks)
    assert chunks[-1].encoding is None


def test_a_pytorch_model(old: Path):
    import torch

    x = torch.linspace(-1, 1, 12).reshape(3, 4)
    loaded, expected = milepost.load_model(old / "torch.safetensors"), make.torch_model()
    assert not loaded.training
    assert torch.equal(loaded(x), expected(x))


def test_a_keras_model(old: Path):
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    loaded, expected = milepost.load_model(old / "keras.safetensors"), make.keras_model()
    assert np.array_equal(loaded.predict(x, verbose=0), expected.predict(x, verbose=0))
    configs = [model.optimizer.get_config() for model in (loaded, expected)]
    for config in configs:
        config.pop("name")  # Keras numbers what a process makes
    assert configs[0] == configs[1]
    loaded.fit(x, np.zeros((3, 2)), verbose=0)  # compiled, as it was
