"""PyTorch's distributed checkpoints: of one process, and of several that share tensors."""

from __future__ import annotations

import collections
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

import milepost
from milepost.errors import DamagedError, UntrustedError, VersionError
from milepost.testing import FormatTests
from milepost.testing.watch import soon

torch = pytest.importorskip("torch")
dcp = pytest.importorskip("torch.distributed.checkpoint")

from torch.distributed.checkpoint import filesystem  # noqa: E402
from torch.distributed.checkpoint import metadata as dcp_metadata  # noqa: E402
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

# Each process has parts of the tensors, which no two cuts make equal.
_PROCESSES = """
import sys, torch, warnings
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
warnings.simplefilter("ignore")
rank, path = int(sys.argv[1]), sys.argv[2]
store = dist.FileStore(path + ".store", 4)
dist.init_process_group("gloo", rank=rank, world_size=4, store=store)
line = init_device_mesh("cpu", (4,))
mesh = init_device_mesh("cpu", (2, 2))
def numbers(*shape):
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
state = {
    "uneven": distribute_tensor(numbers(10, 3), line, [Shard(0)]),
    "few": distribute_tensor(numbers(2, 5), line, [Shard(0)]),
    "columns": distribute_tensor(numbers(3, 7), line, [Shard(1)]),
    "both": distribute_tensor(numbers(5, 7), mesh, [Shard(0), Shard(1)]),
    "half": distribute_tensor(numbers(5, 7).bfloat16(), mesh, [Replicate(), Shard(0)]),
    "copies": distribute_tensor(numbers(4), line, [Replicate()]),
    "plain": numbers(6),
    "step": 12,
}
dcp.save(state, checkpoint_id=path)
dist.destroy_process_group()
"""


def flat(value, name=""):
    """What PyTorch loaded, as leaves by the names that it gives to them."""
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    else:
        return {name: array(value) if isinstance(value, torch.Tensor) else value}
    leaves = {}
    for key, part in parts:
        leaves |= flat(part, f"{name}.{key}" if name else str(key))
    return leaves


def array(tensor):
    import ml_dtypes

    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    if tensor.dtype == torch.float8_e4m3fn:
        return tensor.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn)
    return tensor.numpy()


def state():
    torch.manual_seed(7)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "name": "hällo",
        "none": None,
        "pair": (1, 2.5),
        "bytes": b"\x00\xff",
        "transposed": torch.arange(12).reshape(3, 4).t(),
        "part": torch.arange(10.0)[3:5],
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "bfloat16": torch.arange(5, dtype=torch.bfloat16),
        "float8": torch.tensor([0.5, -2.0]).to(torch.float8_e4m3fn),
        "bool": torch.tensor([True, False]),
        "complex": torch.tensor([1 + 2j, 3]),
        "uint16": torch.tensor([1, 65535], dtype=torch.uint16),
    }


def save(path, what):
    dcp.save(what, checkpoint_id=path, no_dist=True)
    return path


def loaded(path):
    whole = path.with_name("whole.pt")
    dcp_to_torch_save(path, whole)
    return flat(torch.load(whole, weights_only=False))


class TestOneProcess(FormatTests):
    executions = 200

    def make(self, folder):
        path = save(folder / "checkpoint", state())
        return path, loaded(path)


class TestFourProcesses(FormatTests):
    executions = 100
    written = None

    def make(self, folder):
        cls = type(self)
        path = folder / "checkpoint"
        if cls.written is None:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-c", _PROCESSES]
            running = [
                subprocess.Popen([*command, str(rank), str(path)], env=environment)
                for rank in range(4)
            ]
            assert [process.wait(timeout=120) for process in running] == [0] * 4
            assert len(list(path.glob("*.distcp"))) == 4
            files = {file.name: file.read_bytes() for file in path.iterdir()}
            cls.written = files, loaded(path)
            shutil.rmtree(path)
        files, expected = cls.written
        path.mkdir()
        for name, data in files.items():
            (path / name).write_bytes(data)
        return path, expected


class Odd:
    """Of no kind that a reader without this class could know."""


def test_what_is_no_plain_value_is_left_out_and_told_of(tmp_path):
    path = save(tmp_path / "c", {"odd": Odd(), "dtype": torch.float16, "w": torch.ones(2)})
    with milepost.open(path) as snapshot:
        assert sorted(snapshot) == ["dtype", "w"]
        assert snapshot.read("dtype") == "torch.float16"
        [(name, what)] = snapshot.facts()["metadata"]["not read"].items()
        assert (name, what.rsplit(".", 1)[1]) == ("odd", "Odd")


def test_opening_reads_no_tensor(tmp_path):
    path = save(tmp_path / "c", {f"w{i}": torch.ones(2, 3) for i in range(1000)})
    data = path / "__0_0.distcp"
    data.write_bytes(bytes(data.stat().st_size))
    with soon(2):
        snapshot = milepost.open(path)
        assert snapshot.spec("w999").shape == (2, 3)
    with snapshot, pytest.raises(DamagedError):
        snapshot.read("w0")


def changed(path, change):
    """The same checkpoint, with something else in its metadata."""
    with open(path / ".metadata", "rb") as file:
        metadata = pickle.load(file)
    change(metadata)
    with open(path / ".metadata", "wb") as file:
        pickle.dump(metadata, file)


class Runs:
    def __reduce__(self):
        return os.system, ("echo run > ran",)


def _place(**attributes):
    def change(metadata):
        for info in metadata.storage_data.values():
            for name, value in attributes.items():
                setattr(info, name, value)

    return change


def _chunk(offsets, sizes):
    def change(metadata):
        chunk = dcp_metadata.ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
        metadata.state_dict_metadata["w"].chunks.append(chunk)
        index = dcp_metadata.MetadataIndex("w", torch.Size(offsets))
        [place, *_] = metadata.storage_data.values()
        metadata.storage_data[index] = filesystem._StorageInfo(
            place.relative_path, place.offset, place.length
        )

    return change


def _runs(metadata):
    metadata.planner_data = Runs()


def _size(*sizes):
    def change(metadata):
        metadata.state_dict_metadata["w"].size = torch.Size(sizes)

    return change


def _overlap_and_gap(metadata):
    _size(4, 3)(metadata)
    _chunk((1, 0), (2, 3))(metadata)


def _huge(metadata):
    metadata.state_dict_metadata["w"].size = torch.Size((2**40, 3))
    metadata.state_dict_metadata["w"].chunks[0].sizes = torch.Size((2**40, 3))


def _endless():
    """Lists that share their parts: 60 of them, with a text of 2**60 pieces."""
    value = []
    for _ in range(60):
        value = [value, value]
    return value


def _endless_tuple():
    value = ()
    for _ in range(60):
        value = (value, value)
    return value


def _endless_dtype(metadata):
    metadata.state_dict_metadata["w"].properties.__class__ = _Properties


class _Properties(dcp_metadata.TensorProperties):
    def __reduce__(self):
        return dcp_metadata.TensorProperties, (), (_endless(), 0, False, 0, False)


def _endless_name(metadata):
    [(index, place)] = metadata.storage_data.items()
    object.__setattr__(index, "fqn", _endless())
    metadata.storage_data = _Pairs([(index, place)])


class _Pairs(dict):
    """A dict that is pickled without a look at its keys, of which some have no hash in time."""

    def __init__(self, pairs):
        self.pairs = pairs

    def __reduce__(self):
        return collections.OrderedDict, (), None, None, iter(self.pairs)


def _forgets(metadata):
    metadata.storage_data.clear()


def _no_chunks(metadata):
    metadata.state_dict_metadata["w"].chunks.clear()


_HOSTILE = {
    "runs a program": (_runs, UntrustedError),
    "a file above": (_place(relative_path="../secret"), UntrustedError),
    "an absolute path": (_place(relative_path="/etc/passwd"), UntrustedError),
    "a path with dots inside": (_place(relative_path="a/../../secret"), UntrustedError),
    "a file that is not there": (_place(relative_path="__9_0.distcp"), DamagedError),
    "behind the end of the file": (_place(offset=1 << 40), DamagedError),
    "a negative offset": (_place(offset=-5), DamagedError),
    "longer than the file": (_place(length=1 << 62), DamagedError),
    "transformed": (_place(transform_descriptors=["zstd"]), VersionError),
    "a chunk outside": (_chunk((2, 0), (5, 3)), DamagedError),
    "two chunks that overlap": (_chunk((1, 0), (1, 3)), DamagedError),
    "as large as its chunks, which overlap": (_overlap_and_gap, DamagedError),
    "a chunk twice": (_chunk((0, 0), (2, 3)), DamagedError),
    "a chunk of other rank": (_chunk((0,), (2,)), DamagedError),
    "larger than its chunks": (_size(4, 3), DamagedError),
    "too large to exist": (_size(2**62, 2**62), DamagedError),
    "larger than its file": (_huge, DamagedError),
    "a dtype without end": (_endless_dtype, DamagedError),
    "a path without end": (_place(relative_path=_endless_tuple()), DamagedError),
    "a length without end": (_place(length=_endless()), DamagedError),
    "a transform without end": (_place(transform_descriptors=[_endless()]), VersionError),
    "a name without end": (_endless_name, DamagedError),
    "no chunks": (_no_chunks, DamagedError),
    "no places": (_forgets, DamagedError),
}


@pytest.mark.parametrize("name", _HOSTILE)
def test_hostile(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change, refusal = _HOSTILE[name]
    (tmp_path / "secret").write_bytes(b"secret" * 1000)
    path = save(tmp_path / "c", {"w": torch.ones(2, 3)})
    changed(path, change)
    with pytest.raises(refusal), milepost.open(path) as snapshot:
        snapshot.read("w")
    assert not os.path.exists("ran")


def test_a_value_that_runs_a_program_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "c", {"bad": Runs(), "w": torch.ones(2)})
    with milepost.open(path) as snapshot:
        assert list(snapshot) == ["w"]
        assert snapshot.metadata["not read"] == {"bad": "posix.system"}
    assert not os.path.exists("ran")


def test_a_link_to_a_file_outside_is_refused(tmp_path):
    path = save(tmp_path / "c", {"w": torch.ones(2)})
    shutil.move(path / "__0_0.distcp", tmp_path / "outside")
    (path / "__0_0.distcp").symlink_to(tmp_path / "outside")
    with pytest.raises(UntrustedError, match="link"):
        milepost.open(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    path = save(tmp_path / "c", {"w": torch.ones(2)})
    (path / "__0_0.distcp").unlink()
    os.mkfifo(path / "__0_0.distcp")
    with pytest.raises(UntrustedError, match="regular"):
        milepost.open(path)


def test_a_tensor_that_is_another_than_the_metadata_says(tmp_path):
    path = save(tmp_path / "c", {"w": torch.ones(2, 3)})
    other = save(tmp_path / "other", {"w": torch.ones(2, 3, dtype=torch.int32)})
    shutil.copy(other / "__0_0.distcp", path / "__0_0.distcp")
    with milepost.open(path) as snapshot, pytest.raises(DamagedError, match="int32"):
        snapshot.read("w")


def test_many_chunks_that_lie_on_one_another_take_no_time(tmp_path):
    path = save(tmp_path / "c", {"w": torch.ones(20_000)})

    def change(metadata):
        described = metadata.state_dict_metadata["w"]
        described.chunks.clear()
        described.size = torch.Size((20_000 * 10_000,))
        for start in range(20_000):
            size = torch.Size((10_000,))
            described.chunks.append(dcp_metadata.ChunkStorageMetadata(torch.Size((start,)), size))

    changed(path, change)
    with soon(4), pytest.raises(DamagedError):
        milepost.open(path)


def test_slices_read_only_their_chunks(tmp_path):
    path = save(tmp_path / "c", {"w": torch.arange(4_000_000.0)})
    with milepost.open(path) as snapshot:
        assert np.array_equal(snapshot["w"][1_000_000:1_000_003], [1e6, 1e6 + 1, 1e6 + 2])
