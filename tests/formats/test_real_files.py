"""Real pretrained files: what milepost reads, with no framework, is what the framework reads."""

from __future__ import annotations

import warnings

import h5py
import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file

import milepost
from milepost.testing import same_value
from tests.formats.real_files import copy, package

LEGACY = [
    ("lpips==0.1.4", f"lpips/weights/{version}/{net}.pth")
    for version in ("v0.0", "v0.1")
    for net in ("alex", "squeeze", "vgg")
] + [("attacut==1.0.6", f"attacut/artifacts/attacut-{kind}/model.pth") for kind in ("c", "sc")]
SILERO = "silero-vad==6.2.3"
PITCH = "basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/"


def compare(path, expected):
    """Every leaf to the last bit, none more and none less; and every byte of the file is sound."""
    with milepost.open(path) as snapshot:
        assert sorted(snapshot) == sorted(expected)
        for name, value in expected.items():
            same_value(snapshot.read(name), value, name)
    assert milepost.verify(path) == []
    return len(expected)


def arrays(state):
    return {name: tensor.detach().numpy() for name, tensor in state.items()}


@pytest.mark.parametrize(("requirement", "file"), LEGACY)
def test_torch_legacy(tmp_path, requirement, file):
    path = copy(package(requirement) / file, tmp_path)
    assert compare(path, arrays(torch.load(path, map_location="cpu", weights_only=True))) > 2


def test_torchscript(tmp_path):
    path = copy(package(SILERO) / "silero_vad/data/silero_vad.jit", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.jit.load(path)
    expected = arrays(model.state_dict())
    with milepost.open(path) as snapshot:
        assert set(expected) <= set(snapshot)
        for name, value in expected.items():
            same_value(snapshot.read(name), value, name)
    assert len(expected) > 10
    assert milepost.verify(path) == []


@pytest.mark.parametrize(
    ("requirement", "file"),
    [
        (SILERO, "silero_vad/data/silero_vad_16k.safetensors"),
        ("fracast==0.1.0", "fracast/weights/model.safetensors"),
        ("fracast==0.1.0", "fracast/weights/model.int8.safetensors"),
    ],
)
def test_safetensors(tmp_path, requirement, file):
    path = copy(package(requirement) / file, tmp_path)
    assert compare(path, load_file(path)) > 5


def test_saved_model(tmp_path):
    import tensorflow as tf

    path = copy(package(PITCH[0]) / PITCH[1] / "nmp", tmp_path)
    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    keys = [k for k in reader.get_variable_to_shape_map() if k != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    with milepost.open(path) as snapshot:
        assert len(snapshot) == len(keys) > 20
        for key in keys:
            found = snapshot.canonical(key)
            assert found is not None, key
            same_value(snapshot.read(found), np.asarray(reader.get_tensor(key)), key)
    assert milepost.verify(path) == []


@pytest.mark.parametrize(
    ("requirement", "file"),
    [
        (PITCH[0], PITCH[1] + "nmp.onnx"),
        (SILERO, "silero_vad/data/silero_vad_16k_op15.onnx"),
        (SILERO, "silero_vad/data/silero_vad_half.onnx"),
    ],
)
def test_onnx(tmp_path, requirement, file):
    path = copy(package(requirement) / file, tmp_path)
    graph = onnx.load(path).graph
    expected = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    with milepost.open(path) as snapshot:
        assert set(expected) <= set(snapshot)
        for name, value in expected.items():
            same_value(snapshot.read(name), value, name)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
def test_tflite(tmp_path):
    import tensorflow as tf

    path = copy(package(PITCH[0]) / PITCH[1] / "nmp.tflite", tmp_path)
    interpreter = tf.lite.Interpreter(str(path))
    compared = 0
    with milepost.open(path) as snapshot:
        for detail in interpreter.get_tensor_details():
            if detail["name"] not in snapshot:
                continue
            same_value(
                np.asarray(snapshot.read(detail["name"])),
                np.asarray(interpreter.get_tensor(detail["index"])),
                detail["name"],
            )
            compared += 1
        assert compared == len(snapshot) > 10


def test_keras_h5(tmp_path):
    path = copy(package("deepcut==0.7.0.0") / "deepcut/weight/cnn_without_ne_ab.h5", tmp_path)
    expected = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                expected.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
        assert len(expected) > 10
        compare(path, {name: np.asarray(value) for name, value in expected.items()})
