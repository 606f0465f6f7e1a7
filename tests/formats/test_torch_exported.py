"""Exported programs of PyTorch's, beside what torch.export reads."""

from __future__ import annotations

import io
import json
import shutil
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch

import milepost
from milepost.errors import DamagedError, UnknownFormatError, VersionError
from milepost.testing import FormatTests


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = torch.nn.Linear(3, 4)
        self.tied = torch.nn.Linear(3, 4, bias=False)
        self.tied.weight = self.dense.weight
        self.small = torch.nn.Parameter(torch.randn(2, 3).bfloat16())
        whole = torch.arange(12.0)
        self.register_buffer("whole", whole)
        self.register_buffer("turned", whole.reshape(3, 4).t())
        self.register_buffer("part", whole[2:7])
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("complex", torch.tensor([1 + 2j]))
        self.register_buffer("float8", torch.arange(4.0).to(torch.float8_e4m3fn))
        self.register_buffer("count", torch.tensor(3), persistent=False)

    def forward(self, x):
        y = self.dense(x) + self.tied(x) + self.turned.sum() + self.part.sum() + self.count
        return y + torch.tensor([1.0, 2.0, 3.0, 4.0])


def to_numpy(tensor):
    tensor = tensor.detach().contiguous()
    extension = {torch.bfloat16: ml_dtypes.bfloat16, torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn}
    if tensor.dtype in extension:
        raw = tensor.view(torch.uint8).numpy().view(extension[tensor.dtype])
        return raw.reshape(tensor.shape)
    return tensor.numpy()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.pt2"
    torch.export.save(torch.export.export(Model(), (torch.randn(2, 3),)), path)
    loaded = torch.export.load(path)
    leaves = {**loaded.state_dict, **loaded.constants}
    return path, {name: to_numpy(tensor) for name, tensor in leaves.items()}


class TestExported(FormatTests):
    @pytest.fixture(autouse=True)
    def _made_once(self, exported):
        self.exported = exported

    def make(self, folder):
        path, expected = self.exported
        shutil.copy(path, folder / "model.pt2")
        return folder / "model.pt2", expected


class TestDeflated(TestExported):
    """The same, packed again by somebody."""

    def make(self, folder):
        path, expected = self.exported
        (folder / "model.pt2").write_bytes(repacked(path, {}, zipfile.ZIP_DEFLATED))
        return folder / "model.pt2", expected


def repacked(path, changes, method=zipfile.ZIP_STORED):
    """The archive with other contents: name after the folder's -> text, or None to leave it out."""
    result = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(result, "w", method) as new:
        for name in old.namelist():
            short = name.partition("/")[2]
            data = changes.get(short, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return result.getvalue()


def test_a_flipped_bit_is_found_by_verify(exported, tmp_path):
    data = bytearray(exported[0].read_bytes())
    data[data.index(np.arange(12, dtype=np.float32).tobytes()) + 40] ^= 1
    (tmp_path / "a.pt2").write_bytes(data)
    assert milepost.verify(tmp_path / "a.pt2")


WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
HOSTILE_CONFIGS = {
    "a huge shape": {"sizes": [{"as_int": 2**40}]},
    "a shape that wraps": {"sizes": [{"as_int": 2**32}, {"as_int": 2**32}]},
    "much made of nothing": {"sizes": [{"as_int": 2**33}], "strides": [{"as_int": 0}]},
    "a huge stride": {"strides": [{"as_int": 2**61}]},
    "a negative stride": {"strides": [{"as_int": -1}]},
    "a negative offset": {"storage_offset": {"as_int": -1}},
    "an offset behind the end": {"storage_offset": {"as_int": 1}},
    "a stride less": {"strides": []},
    "a sparse tensor": {"layout": 1},
    "a size that is a name": {"sizes": [{"as_name": "s0"}]},
    "a size that is true": {"sizes": [{"as_int": True}]},
    "sizes that are none": {"sizes": None},
    "an unknown dtype": {"dtype": 99},
    "a dtype that is a list": {"dtype": [7]},
}


@pytest.mark.parametrize("name", HOSTILE_CONFIGS)
def test_hostile_tensors_are_refused(exported, tmp_path, name):
    with zipfile.ZipFile(exported[0]) as archive:
        config = json.loads(archive.read(f"model/{WEIGHTS}"))
    config["config"]["dense.bias"]["tensor_meta"].update(HOSTILE_CONFIGS[name])
    data = repacked(exported[0], {WEIGHTS: json.dumps(config)})
    (tmp_path / "a.pt2").write_bytes(data)
    with pytest.raises((DamagedError, UnknownFormatError)):
        milepost.open(tmp_path / "a.pt2")


HOSTILE = {
    "another format": ({"archive_format": b"pt3"}, DamagedError),
    "a newer version": ({"archive_version": b"1"}, VersionError),
    "no version": ({"archive_version": None}, DamagedError),
    "another byte order": ({"byteorder": b"middle"}, DamagedError),
    "no weights": ({WEIGHTS: None}, DamagedError),
    "no constants": ({CONSTANTS: None}, DamagedError),
    "no program": ({"models/model.json": None}, UnknownFormatError),
    "a config that is no JSON": ({WEIGHTS: b"{"}, DamagedError),
    "a config that is a list": ({WEIGHTS: b"[]"}, DamagedError),
    "a config of numbers": ({WEIGHTS: b'{"config": {"a": 1}}'}, DamagedError),
    "deep brackets": ({WEIGHTS: b'{"config":' + b"[" * 1_000_000}, DamagedError),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(exported, tmp_path, name):
    changes, error = HOSTILE[name]
    (tmp_path / "a.pt2").write_bytes(repacked(exported[0], changes))
    with pytest.raises(error):
        milepost.open(tmp_path / "a.pt2")


def test_what_is_pickled_is_listed_and_left_alone(exported, tmp_path):
    entry = {"path_name": "custom_obj_0", "is_param": False, "use_pickle": True}
    config = {"config": {"object": {**entry, "tensor_meta": None}}}
    (tmp_path / "a.pt2").write_bytes(repacked(exported[0], {CONSTANTS: json.dumps(config)}))
    with milepost.open(tmp_path / "a.pt2") as snapshot:
        assert snapshot.metadata["pickled"] == ["object"]
        assert "object" not in snapshot
