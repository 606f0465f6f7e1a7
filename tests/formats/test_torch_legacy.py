"""PyTorch's files of before 1.6."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import milepost
from milepost.errors import DamagedError, VersionError
from milepost.testing import FormatTests
from tests.formats.test_torch_file import loaded, network


def save(value, path):
    torch.save(value, path, _use_new_zipfile_serialization=False)


class TestLegacy(FormatTests):
    def make(self, folder):
        path = folder / "old.pth"
        whole = torch.arange(30.0).reshape(5, 6)
        value = {
            "state_dict": network().state_dict(),
            "views": [whole.t(), whole[1:3, ::2], whole, torch.zeros(0, 3)],
            "half": torch.ones(3, dtype=torch.bfloat16),
            "epoch": 3,
        }
        save(value, path)
        return path, loaded(path)


def written(path, persistent_ids, storages, *, order=True, protocol=1001):
    """A file by hand: each tensor has three elements at the start of the storage of an id."""
    import io

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value[1] if isinstance(value, tuple) and value[:1] == ("id",) else None

    class Rebuilt:
        def __init__(self, number):
            self.number = number

        def __reduce__(self):
            pid = persistent_ids[self.number]
            return torch._utils._rebuild_tensor, (("id", pid), 0, (3,), (1,))

    stream = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, protocol, {"little_endian": order}):
        pickle.dump(value, stream, 2)
    Pickler(stream, 2).dump({str(n): Rebuilt(n) for n in range(len(persistent_ids))})
    pickle.dump(list(storages), stream, 2)
    for array in storages.values():
        stream.write(len(array).to_bytes(8, "little") + array.tobytes())
    path.write_bytes(stream.getvalue())


def test_views_of_a_storage_in_old_files(tmp_path):
    numbers = np.arange(10, dtype=np.float32)
    kind = ("storage", torch.FloatStorage, "s", "cpu", 10)
    written(tmp_path / "f", [(*kind, ("v", 4, 3)), (*kind, None)], {"s": numbers})
    with milepost.open(tmp_path / "f") as snapshot:
        assert snapshot.read("0").tolist() == [4, 5, 6]
        assert snapshot.read("1").tolist() == [0, 1, 2]
    loaded_by_torch = torch.load(tmp_path / "f", weights_only=False)
    assert loaded_by_torch["0"].tolist() == [4, 5, 6]


def test_a_file_of_a_big_endian_machine(tmp_path):
    kind = ("storage", torch.FloatStorage, "s", "cpu", 3)
    written(tmp_path / "f", [(*kind, None)], {"s": np.arange(3, dtype=">f4")}, order=False)
    with milepost.open(tmp_path / "f") as snapshot:
        assert snapshot.read("0").tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("pid", "storages"),
    {
        "view outside": (("storage", torch.FloatStorage, "s", "cpu", 10, ("v", 8, 3)), {"s": 10}),
        "other count": (("storage", torch.FloatStorage, "s", "cpu", 9, None), {"s": 10}),
        "no such storage": (("storage", torch.FloatStorage, "s", "cpu", 10, None), {}),
        "unknown storage": (
            ("storage", torch.FloatStorage, "s", "cpu", 10, None),
            {"s": 10, "t": 1},
        ),
        "too small": (("storage", torch.FloatStorage, "s", "cpu", 2, None), {"s": 2}),
        "overflow": (("storage", torch.FloatStorage, "s", "cpu", 2**62, None), {"s": 10}),
        "negative": (("storage", torch.FloatStorage, "s", "cpu", -1, None), {"s": 10}),
        "no kind": (("storage", dict, "s", "cpu", 10, None), {"s": 10}),
        "no key": (("storage", torch.FloatStorage, [], "cpu", 10, None), {"s": 10}),
        "no storage": (("other",), {"s": 10}),
    }.values(),
)
def test_storages_that_are_wrong_are_refused(tmp_path, pid, storages):
    arrays = {key: np.zeros(count, np.float32) for key, count in storages.items()}
    written(tmp_path / "f", [pid], arrays)
    with pytest.raises(DamagedError):
        milepost.open(tmp_path / "f")


def test_a_newer_protocol(tmp_path):
    written(tmp_path / "f", [], {}, protocol=1002)
    with pytest.raises(VersionError):
        milepost.open(tmp_path / "f")
