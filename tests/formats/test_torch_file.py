"""PyTorch's files, as `torch.save` writes them now."""

from __future__ import annotations

import io
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

import milepost
from milepost.dtypes import numpy_dtype
from milepost.errors import UntrustedError
from milepost.testing import FormatTests

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf", "ignore:TypedStorage")

# The axis that a complex number of two float16 has, beside its dtype.
_NAMES = {torch.complex32: "float16"}


def as_numpy(tensor):
    """The numbers of a tensor, of every dtype, to the last bit."""
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if tensor.dtype == torch.complex32:
        tensor = torch.view_as_real(tensor)
    dtype = numpy_dtype(_NAMES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch.")))
    raw = tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.empty(0, np.uint8)
    return raw.view(dtype).reshape(tensor.shape)


def flat(value, name=""):
    """The leaves of what `torch.load` gives, by the names that they have here."""
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list | tuple):
        children = enumerate(value)
    else:
        return {name: as_numpy(value) if isinstance(value, torch.Tensor) else value}
    leaves = {}
    for key, child in children:
        leaves |= flat(child, f"{name}/{key}" if name else str(key))
    return leaves


def loaded(path):
    return flat(torch.load(path, weights_only=False, map_location="cpu"))


def network():
    torch.manual_seed(7)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3),
        torch.nn.BatchNorm2d(3),
        torch.nn.Flatten(),
        torch.nn.Linear(48, 5),
    )


class TestStateDict(FormatTests):
    def make(self, folder):
        path = folder / "model.pt"
        torch.save(network().state_dict(), path)
        return path, loaded(path)


class TestCheckpoint(FormatTests):
    """As while training: nested, with an optimizer's numbers as keys, and plain values."""

    def make(self, folder):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), foreach=False)
        model(torch.randn(4, 1, 6, 6)).sum().backward()
        optimizer.step()
        path = folder / "last.ckpt"
        everything = {
            "state_dict": model.state_dict(),
            "optimizer_states": [optimizer.state_dict()],
            "epoch": 3,
            "loss": 0.1 + 0.2,
            "note": "é",
            "none": None,
            "big": 2**70,
            "counts": {"tuple": (1, 2.5, True), 7: b"bytes"},
        }
        torch.save(everything, path)
        return path, loaded(path)


class TestEveryDtype(FormatTests):
    executions = 60

    def make(self, folder):
        names = (
            *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
            *("float16", "bfloat16", "float32", "float64", "complex32", "complex64"),
            *("complex128", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2"),
            *("float8_e5m2fnuz", "float8_e8m0fnu"),
        )
        raw = torch.from_numpy(np.random.default_rng(3).integers(0, 2, 3 * 4 * 16, dtype=np.uint8))
        tensors = {}
        for name in names:
            dtype = getattr(torch, name)
            tensors[name] = raw[: 12 * dtype.itemsize].view(dtype).reshape(3, 4).clone()
        tensors["nan"] = torch.tensor([float("nan"), -0.0, float("inf")])
        path = folder / "all.pt"
        torch.save(tensors, path)
        return path, loaded(path)


class TestViews(FormatTests):
    """What does not lie in its storage as it is: parts, transposes, repeats, conjugates."""

    def make(self, folder):
        torch.manual_seed(5)
        whole, wave = torch.randn(7, 6, 5), torch.randn(6, 4, dtype=torch.complex64)
        tensors = {
            "whole": whole,
            "tied": whole,
            "transposed": whole.permute(2, 0, 1),
            "part": whole[2:5, ::2, 1:],
            "row": whole[3, 2],
            "scalar": whole[1, 2, 3],
            "empty": whole[:0],
            "expanded": whole[0, 0].expand(4, 3, 5),
            "one": whole[:1, :, :1],
            "conjugate": wave.conj(),
            "adjoint": wave.mH,
            "imaginary": torch.randn(6, dtype=torch.complex64).conj().imag,
            "complex32": wave.to(torch.complex32).t(),
            "diagonal": torch.randn(6, 6).diagonal(),
            "windows": torch.arange(20.0).unfold(0, 5, 2),
            "parameter": torch.nn.Parameter(torch.randn(3)),
            "buffer": torch.nn.Buffer(torch.randn(3)),
        }
        path = folder / "views.pt"
        torch.save(tensors, path)
        return path, loaded(path)


class TestBigEndian(FormatTests):
    """As a machine of the other byte order would have saved it."""

    def make(self, folder):
        tensors = {
            "a": torch.arange(12.0).reshape(3, 4),
            "b": torch.arange(5, dtype=torch.int64),
            "c": torch.arange(4.0).to(torch.bfloat16),
        }
        path, little = folder / "big.pt", folder / "little.pt"
        torch.save(tensors, little)
        sizes = {12 * 4: "f4", 5 * 8: "i8", 4 * 2: "i2"}
        with zipfile.ZipFile(little) as old, zipfile.ZipFile(path, "w") as new:
            for member in old.namelist():
                data = old.read(member)
                if member.endswith("byteorder"):
                    data = b"big"
                elif "/data/" in member and member[-1].isdigit():
                    data = np.frombuffer(data, sizes[len(data)]).byteswap().tobytes()
                new.writestr(member, data)
        little.unlink()
        return path, flat(tensors)


class TestCompressed(FormatTests):
    """As somebody packs it again: deflated."""

    def make(self, folder):
        path, first = folder / "packed.pt", folder / "first.pt"
        torch.save(network().state_dict(), first)
        expected = loaded(first)
        with zipfile.ZipFile(first) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for member in old.namelist():
                new.writestr(member, old.read(member))
        first.unlink()
        return path, expected


class TestModule(FormatTests):
    """A whole module: what its `state_dict()` has."""

    def make(self, folder):
        model = network()
        model[3].register_buffer("hidden", torch.zeros(2), persistent=False)
        path = folder / "whole.pt"
        torch.save(model, path)
        return path, flat(model.state_dict())


class Config:
    def __init__(self):
        self.width, self.again = 3, self


class Slotted:
    __slots__ = ("depth",)


class Wide(dict):
    pass


class Own(torch.Tensor):
    pass


def opened(value, tmp_path, **options):
    path = tmp_path / "file.pt"
    torch.save(value, path, **options)
    return milepost.open(path)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_containers_and_numpy_values_of_every_protocol(tmp_path, protocol):
    slotted, wide = Slotted(), Wide(a=1)
    slotted.depth, wide.more = 9, 2
    value = {
        "ordered": OrderedDict(x=1),
        "default": defaultdict(list, {1: [2]}),
        "counter": Counter("aab"),
        "set": {3},
        "frozen": frozenset(["q"]),
        "bytes": b"\xff",
        "bytearray": bytearray(b"z"),
        "path": Path("a/b"),
        "size": torch.Size([2, 3]),
        "device": torch.device("cuda:1"),
        "dtype": torch.bfloat16,
        "array": np.arange(6).reshape(2, 3).T,
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "swapped": np.arange(3, dtype=">i4"),
        "number": np.float32(0.1),
        "wide": wide,
    }
    if protocol >= 2:
        value["slotted"] = slotted
    with opened(value, tmp_path, pickle_protocol=protocol) as snapshot:
        found = {name: snapshot.read(name) for name in snapshot}
    arrays = {k: v for k, v in found.items() if isinstance(v, np.ndarray)}
    for name, array in arrays.items():
        expected = np.asarray(value[name])
        assert array.dtype == expected.dtype.newbyteorder("=")
        assert array.tolist() == expected.tolist()
        del found[name]
    assert len(arrays) == 4
    assert found == {
        "ordered/x": 1,
        "default/1/0": 2,
        "counter/a": 2,
        "counter/b": 1,
        "set/0": 3,
        "frozen/0": "q",
        "bytes": b"\xff",
        "bytearray": b"z",
        "path": "a/b",
        "size/0": 2,
        "size/1": 3,
        "device": "cuda:1",
        "dtype": "torch.bfloat16",
        "wide/a": 1,
        "wide/more": 2,
        **({"slotted/depth": 9} if protocol >= 2 else {}),
    }


def test_an_object_that_holds_itself_shows_the_rest(tmp_path):
    with opened({"config": Config(), "x": torch.ones(2)}, tmp_path) as snapshot:
        assert sorted(snapshot) == ["config/width", "x"]
        assert snapshot.metadata["left_out"] == {"config/again": "it refers to itself"}
        assert snapshot.metadata["classes"] == [f"{Config.__module__}.Config"]


def test_a_module_inside_of_something_has_its_dots(tmp_path):
    with opened({"model": torch.nn.Sequential(torch.nn.Linear(2, 3))}, tmp_path) as snapshot:
        assert sorted(snapshot) == ["model/0.bias", "model/0.weight"]


@pytest.mark.filterwarnings("ignore:torch.quantize")
def test_quantised_tensors_show_their_integers(tmp_path):
    scales, zeros = torch.tensor([0.1, 0.2]), torch.tensor([0, 1])
    one = torch.quantize_per_tensor(torch.ones(2), 0.5, 3, torch.qint8)
    each = torch.quantize_per_channel(torch.ones(2, 2), scales, zeros, 0, torch.quint8)
    with opened({"one": one, "each": each}, tmp_path) as snapshot:
        assert snapshot.read("one").tolist() == one.int_repr().tolist()
        assert snapshot.record("one").kind == "qint8, scale 0.5, zero point 3"
        assert snapshot.read("each/int_repr").tolist() == each.int_repr().tolist()
        assert snapshot.read("each/scales").tolist() == each.q_per_channel_scales().tolist()
        assert snapshot["each/axis"] == 0


@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_tensors_show_their_parts(tmp_path):
    eye = torch.eye(4)[:, [1, 0, 2, 3]]
    value = {"coo": eye.to_sparse(), "csr": eye.to_sparse_csr(), "csc": eye.to_sparse_csc()}
    with opened(value, tmp_path) as snapshot:
        assert snapshot.read("coo/indices").tolist() == value["coo"].indices().tolist()
        assert snapshot.read("coo/shape").tolist() == [4, 4]
        assert snapshot.read("csr/crow_indices").tolist() == value["csr"].crow_indices().tolist()
        assert snapshot.read("csr/col_indices").tolist() == value["csr"].col_indices().tolist()
        assert snapshot.read("csc/row_indices").tolist() == value["csc"].row_indices().tolist()
        assert snapshot.read("csc/values").tolist() == [1, 1, 1, 1]


def test_what_has_no_numbers_is_told(tmp_path):
    value = {"meta": torch.zeros(2, device="meta"), "own": torch.ones(2).as_subclass(Own)}
    with opened(value, tmp_path) as snapshot:
        assert list(snapshot) == ["own"]
        assert "Own" in snapshot.record("own").kind
        assert "meta device" in snapshot.metadata["left_out"]["meta"]


def test_names_that_would_be_one_or_none(tmp_path):
    value = {"1": 1, 1: 2, "a": {"b": 3}, "a/b": 4, "": 5, "\n": 6, "\ud800": 7, (1, "x"): 8}
    with opened(value, tmp_path) as snapshot:
        assert dict(snapshot) == {
            "1": 1,
            "1#2": 2,
            "a/b": 3,
            "a/b#2": 4,
            "''": 5,
            "\\n": 6,
            "\\ud800": 7,
            "(1, x)": 8,
        }


def test_a_file_of_one_value(tmp_path):
    with opened(torch.arange(3), tmp_path) as snapshot:
        assert snapshot.read("value").tolist() == [0, 1, 2]


def test_a_buffer_and_a_file_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        buffer = io.BytesIO()
        torch.save({"x": torch.ones(3, dtype=torch.bfloat16)}, buffer)
    finally:
        torch.serialization.set_crc32_options(True)
    (tmp_path / "buffer").write_bytes(buffer.getvalue())
    with milepost.open(tmp_path / "buffer") as snapshot:
        assert snapshot.read("x").dtype == ml_dtypes.bfloat16
    assert milepost.verify(tmp_path / "buffer") == []


def test_a_flipped_bit_is_found_by_verify(tmp_path):
    path = tmp_path / "file.pt"
    torch.save({"x": torch.arange(1000.0)}, path)
    data = bytearray(path.read_bytes())
    data[data.find(np.arange(1000, dtype=np.float32).tobytes()) + 1500] ^= 1
    path.write_bytes(data)
    [damage] = milepost.verify(path)
    assert "checksum" in damage.problem


def test_a_tensor_that_repeats_its_storage_a_little_is_read(tmp_path):
    with opened({"x": torch.tensor(3.0).expand(1000, 1000)}, tmp_path) as snapshot:
        assert (snapshot.read("x") == 3).all()


def test_a_tensor_that_repeats_its_storage_without_end_is_not(tmp_path):
    with opened({"x": torch.tensor(3.0).expand(10**9, 10)}, tmp_path) as snapshot:
        assert snapshot.spec("x").shape == (10**9, 10)
        with pytest.raises(UntrustedError, match="repeats 4 bytes"):
            snapshot["x"][:2]
