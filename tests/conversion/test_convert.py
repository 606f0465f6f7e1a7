"""`milepost.convert`: every target is read back by its own framework, and by milepost."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import gguf
import h5py
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import milepost
from milepost import Checkpoint
from milepost.conversion import convert
from milepost.dtypes import dtype_name
from milepost.errors import DamagedError, StepExistsError, UsageError

_TORCH = {
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e5m2"),
}
_HOLDS = {
    "safetensors": _TORCH - {"complex128"},
    "torch": _TORCH,
    "npz": _TORCH - {"bfloat16", "float8_e4m3fn", "float8_e5m2"},
    "weights.h5": _TORCH - {"float8_e4m3fn", "float8_e5m2"},
    "gguf": {"float32", "float16", "bfloat16", "float64", "int8", "int16", "int32", "int64"},
}
_NAMES = {name: name for name in _HOLDS} | {"torch": "pt"}


def _array(dtype: str) -> np.ndarray:
    """Every bit pattern once in a while: NaN with payloads, infinities, signed zeros."""
    if dtype == "bool":
        return np.array([[True, False, True]])
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    raw = np.random.default_rng(len(dtype)).integers(0, 256, 30 * kind.itemsize, np.uint8)
    return raw.view(kind).reshape(2, 3, 5)


def _state(dtypes) -> dict[str, np.ndarray]:
    arrays = {name: _array(name) for name in sorted(dtypes)}
    arrays["scalar"] = np.array(-0.0, np.float32)
    return arrays


def _store(folder: Path, state) -> Path:
    Checkpoint(s=state).save(folder / "source")
    return folder / "source"


def _same(found, expected: np.ndarray) -> None:
    found = np.asarray(found)
    assert (dtype_name(found.dtype), found.shape) == (dtype_name(expected.dtype), expected.shape)
    assert found.tobytes() == expected.tobytes()


def _read_torch(path: Path):
    loaded = torch.load(path, weights_only=True)
    return {name: _of_torch(value) for name, value in loaded.items()}


def _of_torch(value):
    if not isinstance(value, torch.Tensor):
        return value
    dtype = np.dtype(getattr(ml_dtypes, str(value.dtype)[6:], str(value.dtype)[6:]))
    data = bytes(value.contiguous().reshape(-1).view(torch.uint8).tolist())
    return np.frombuffer(data, dtype).reshape(value.shape)


def _read_h5(path: Path):
    found = {}

    def visit(name, node):
        if isinstance(node, h5py.Dataset):
            value = np.asarray(node[()])
            marked = node.attrs.get("dtype") == "bfloat16"
            found[name] = value.view(ml_dtypes.bfloat16) if marked else value

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def _read_gguf(path: Path):
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        data = np.array(tensor.data)
        if tensor.tensor_type == gguf.GGMLQuantizationType.BF16:
            data = data.view(ml_dtypes.bfloat16)
        found[tensor.name] = data.reshape([int(n) for n in tensor.shape][::-1])
    return found


_READERS = {
    "safetensors": lambda path: {name: _of_torch(t) for name, t in load_file(path).items()},
    "torch": _read_torch,
    "npz": lambda path: dict(np.load(path)),
    "weights.h5": _read_h5,
    "gguf": _read_gguf,
}


@pytest.mark.parametrize("target", _HOLDS)
def test_every_dtype_is_the_same_to_the_last_bit(tmp_path, target):
    state = _state(_HOLDS[target])
    path = tmp_path / f"new.{_NAMES[target]}"
    report = convert(_store(tmp_path, state), path)
    assert (report.target, report.leaves, report.left_out) == (target, len(state), {})
    assert report.nbytes == sum(array.nbytes for array in state.values())
    found = _READERS[target](path)
    assert sorted(found) == sorted(f"s/{name}" for name in state)
    for name, array in state.items():
        _same(found[f"s/{name}"], array)


@pytest.mark.parametrize("target", _HOLDS)
def test_milepost_reads_what_it_wrote(tmp_path, target):
    state = _state(_HOLDS[target])
    path = tmp_path / f"new.{_NAMES[target]}"
    convert(_store(tmp_path, state), path)
    with milepost.open(path) as snapshot:
        for name, array in state.items():
            _same(snapshot[f"s/{name}"], array)
    assert milepost.verify(path) == []


@pytest.mark.parametrize("target", _HOLDS)
def test_a_dtype_that_has_no_form_is_refused_and_nothing_is_written(tmp_path, target):
    strange = sorted({"complex128", "float8_e4m3fn", "int4"} - _HOLDS[target])[0]
    state = {"x": np.zeros(3, getattr(ml_dtypes, strange, strange))}
    source = _store(tmp_path, state)
    with pytest.raises(UsageError, match=r"leaf 's/x' is .*--drop 's/x'"):
        convert(source, tmp_path / f"new.{_NAMES[target]}")
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize("target", ["safetensors", "torch", "npz", "weights.h5"])
def test_empty_arrays_keep_their_shape(tmp_path, target):
    state = {"a": np.zeros((0, 3), np.float32), "b": np.zeros((2, 0), np.int8)}
    path = tmp_path / f"new.{_NAMES[target]}"
    convert(_store(tmp_path, state), path)
    found = _READERS[target](path)
    assert {name: array.shape for name, array in found.items()} == {"s/a": (0, 3), "s/b": (2, 0)}


_PLAIN = {"i": 3, "f": 0.1, "t": "é", "yes": True, "no": None, "raw": b"\0\xff\0", "big": 2**70}


def test_plain_values_in_a_torch_file(tmp_path):
    convert(_store(tmp_path, {**_PLAIN, "x": np.ones(2)}), tmp_path / "new.pt")
    found = torch.load(tmp_path / "new.pt", weights_only=True)
    assert {name: found[f"s/{name}"] for name in _PLAIN} == _PLAIN


def test_plain_values_in_a_safetensors_file_are_text(tmp_path):
    convert(_store(tmp_path, {**_PLAIN, "x": np.ones(2)}), tmp_path / "new.safetensors")
    metadata = milepost.open(tmp_path / "new.safetensors").metadata
    assert metadata["s/i"] == "3"
    assert metadata["s/t"] == "é"
    assert json.loads(metadata["s/raw"]) == {"bytes": "AP8A"}


def test_plain_values_in_an_npz_file(tmp_path):
    report = convert(_store(tmp_path, {**_PLAIN, "x": np.ones(2)}), tmp_path / "new.npz")
    # A text of NumPy's has no final NULs; an object would need a pickle.
    assert sorted(report.left_out) == ["s/big", "s/no", "s/raw"]
    found = np.load(tmp_path / "new.npz", allow_pickle=False)
    assert {name: found[f"s/{name}"].item() for name in "ift"} == {"i": 3, "f": 0.1, "t": "é"}


def test_plain_values_in_h5_and_gguf(tmp_path):
    source = _store(tmp_path, {**_PLAIN, "x": np.ones(2, np.float32)})
    for name in ("new.h5", "new.gguf"):
        report = convert(source, tmp_path / name)
        assert sorted(report.left_out) == ["s/big", "s/no", "s/raw"]
    with h5py.File(tmp_path / "new.h5") as file:
        assert (file["s/i"][()], file["s/t"][()].decode(), bool(file["s/yes"][()])) == (
            3,
            "é",
            True,
        )
    fields = gguf.GGUFReader(tmp_path / "new.gguf").fields
    assert fields["general.architecture"].contents() == "unknown"
    assert (fields["s/i"].contents(), fields["s/t"].contents()) == (3, "é")


def test_the_archive_is_aligned_and_whole(tmp_path):
    convert(_store(tmp_path, _state(_TORCH)), tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            archive.fp.seek(info.header_offset + 26)
            lengths = int.from_bytes(archive.fp.read(2), "little"), archive.fp.read(2)
            start = info.header_offset + 30 + lengths[0] + int.from_bytes(lengths[1], "little")
            assert start % 64 == 0, info.filename
        assert archive.read("archive/byteorder") == b"little"


def test_ties_share_a_storage(tmp_path):
    x = np.arange(1000.0)
    Checkpoint(a={"x": x}, b={"x": x.copy()}).save(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "new.pt")
    found = torch.load(tmp_path / "new.pt", weights_only=True)
    assert found["a/x"].data_ptr() == found["b/x"].data_ptr()
    assert (tmp_path / "new.pt").stat().st_size < 1.5 * x.nbytes


def test_a_store_takes_steps(tmp_path):
    state = {**_state(_TORCH), **_PLAIN}
    source = _store(tmp_path, state)
    assert convert(source, tmp_path / "new", to="store").notes == ("step 1",)
    convert(source, tmp_path / "new", step_number=7)  # a store is known by its content
    with pytest.raises(StepExistsError):
        convert(source, tmp_path / "new", step_number=7)
    convert(source, tmp_path / "new", step_number=7, overwrite=True)
    store = milepost.open(tmp_path / "new")
    assert store.steps == [1, 7]
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            _same(store[7][f"s/{name}"], value)
        else:
            assert store[7][f"s/{name}"] == value
    live = {name: np.zeros_like(v) if isinstance(v, np.ndarray) else v for name, v in state.items()}
    Checkpoint(s=live).restore(tmp_path / "new")  # it can be restored as the source can
    _same(live["float64"], state["float64"])


def test_quantised_arrays(tmp_path):
    values = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    quantised = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    writer = gguf.GGUFWriter(tmp_path / "source.gguf", "llama")
    writer.add_tensor("w", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    report = convert(tmp_path / "source.gguf", tmp_path / "new.npz", dequantise=True)
    expected = gguf.quants.dequantize(quantised, gguf.GGMLQuantizationType.Q8_0)
    _same(np.load(tmp_path / "new.npz")["w"], expected)
    report = convert(tmp_path / "source.gguf", tmp_path / "raw.npz")
    assert np.load(tmp_path / "raw.npz")["w"].tobytes() == quantised.tobytes()
    assert "quantised arrays (Q8_0)" in " ".join(report.notes)


def test_a_step_of_a_store(tmp_path):
    checkpoint = Checkpoint(x=np.zeros(2))
    for step in (1, 2):
        checkpoint.x = np.full(2, step)
        checkpoint.save(tmp_path / "source", step, metrics={"loss": step})
    convert(tmp_path / "source", tmp_path / "new.npz", step="best:loss")
    assert np.load(tmp_path / "new.npz")["x"].tolist() == [1, 1]
    with pytest.raises(UsageError, match="step is for stores"):
        convert(tmp_path / "new.npz", tmp_path / "x.pt", step=1)


def test_shards_are_those_of_the_hub(tmp_path):
    state = {name: np.full(1000, i, np.float32) for i, name in enumerate("abc")}
    source = _store(tmp_path, {**state, "epoch": 3})
    report = convert(source, tmp_path / "new", shard_size="8 KB")
    assert sorted(map(os.path.basename, report.files)) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "new/model.safetensors.index.json").read_text())
    for name, array in state.items():
        shard = load_file(tmp_path / "new" / index["weight_map"][f"s/{name}"])
        _same(shard[f"s/{name}"], array)
    with milepost.open(tmp_path / "new") as snapshot:
        assert sorted(snapshot) == ["s/a", "s/b", "s/c"]
    with pytest.raises(UsageError, match="exists already"):
        convert(source, tmp_path / "new", shard_size="8 KB")
    report = convert(source, tmp_path / "new", shard_size="1 MB", overwrite=True)
    assert os.listdir(tmp_path / "new") == ["model.safetensors"]
    (tmp_path / "new/notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        convert(source, tmp_path / "new", shard_size="8 KB", overwrite=True)
    assert sorted(os.listdir(tmp_path / "new")) == ["model.safetensors", "notes.txt"]


def test_casting_touches_floating_arrays_only(tmp_path):
    state = {
        "w": np.array([1.5, 1e30, -1e30, 1e-30, np.nan, np.inf, 0.0], np.float32),
        "h": np.ones(3, np.float16),
        "i": np.arange(3),
        "b": np.array([True]),
        "c": np.ones(1, np.complex64),
        "lr": 0.1,
    }
    source = _store(tmp_path, state)
    report = convert(source, tmp_path / "new.pt", dtype="float16")
    assert (report.cast, report.overflowed, report.vanished) == (1, {"s/w": 2}, {"s/w": 1})
    found = _read_torch(tmp_path / "new.pt")
    with np.errstate(over="ignore"):
        _same(found["s/w"], state["w"].astype(np.float16))
    for name in "hibc":
        _same(found[f"s/{name}"], state[name])
    assert found["s/lr"] == 0.1
    # A store reads every array twice: that must not count twice.
    report = convert(source, tmp_path / "new", to="store", dtype="float16")
    assert report.overflowed == {"s/w": 2}
    with pytest.raises(UsageError, match="dtype must be one of"):
        convert(source, tmp_path / "x.pt", dtype="int8")


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_casting_from_and_to_every_floating_dtype(tmp_path, dtype):
    kinds = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")
    state = {k: np.array([1, -2, 0, np.nan]).astype(getattr(ml_dtypes, k, k)) for k in kinds}
    convert(_store(tmp_path, state), tmp_path / "new.pt", dtype=dtype)
    for found in _read_torch(tmp_path / "new.pt").values():
        assert dtype_name(found.dtype) == dtype
        assert found[:3].tolist() == [1, -2, 0]
        assert np.isnan(found[3])


def _names(tmp_path, **arguments) -> list[str]:
    names = ("layers.0.weight", "layers.1.weight", "layers.1.bias", "head.bias")
    source = tmp_path / "source.npz"
    np.savez(source, **{name: np.full(1, i) for i, name in enumerate(names)})
    target = tmp_path / "new.npz"
    convert(source, target, overwrite=True, **arguments)
    return sorted(np.load(target))


def test_renaming(tmp_path):
    assert _names(tmp_path, rename={"head.bias": "b"})[0] == "b"
    found = _names(tmp_path, rename={"layers.*.weight": "blocks.{1}.w"})
    assert found == ["blocks.0.w", "blocks.1.w", "head.bias", "layers.1.bias"]
    found = _names(tmp_path, rename={"layers": "blocks", "blocks.[0]*": "first.{2}.{1}"})
    assert found == ["blocks.1.bias", "blocks.1.weight", "first..weight.0", "head.bias"]
    assert _names(tmp_path, rename={"": "model/"})[0] == "model/head.bias"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"layers.*.weight": "w"}, "would give the name 'w' to"),
        ({"layer.0.weight": "w"}, r"is about no leaf; there are 'layers\.0\.weight'"),
        ({"layers.?.gamma": "w"}, "is about no leaf"),
        ({"head.bias": "layers.1.bias"}, "would give the name 'layers.1.bias'"),
        ({"layers.*": "x.{2}"}, "and 1 to choose from"),
        ({"head.bias": ""}, "which is none"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(tmp_path, rules, message):
    with pytest.raises(UsageError, match=message):
        _names(tmp_path, rename=rules)


def test_only_and_drop(tmp_path):
    assert _names(tmp_path, only=["layers"], drop=["*.bias"]) == [
        "layers.0.weight",
        "layers.1.weight",
    ]
    with pytest.raises(UsageError, match="drop 'nothing' is about no leaf"):
        _names(tmp_path, drop=["nothing"])
    with pytest.raises(UsageError, match="leave nothing"):
        _names(tmp_path, drop=["*"])


def test_what_is_there_is_kept_until_the_new_file_is_whole(tmp_path):
    source = tmp_path / "source.npz"
    np.savez(source, x=np.arange(5000))
    target = tmp_path / "new.npz"
    target.write_bytes(b"precious")
    with pytest.raises(UsageError, match="exists already"):
        convert(source, target)
    damaged = bytearray(source.read_bytes())
    damaged[2000] ^= 1
    source.write_bytes(damaged)
    with pytest.raises(DamagedError):
        convert(source, target, overwrite=True)
    assert target.read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["new.npz", "source.npz"]


def test_damage_in_the_midst_leaves_nothing(tmp_path):
    source = _store(tmp_path, {"a": np.zeros(100), "b": np.ones(100)})
    [pack] = (source / "data").iterdir()
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.write_bytes(data)
    for name in ("new.pt", "new.npz", "new.safetensors", "new.h5", "new.gguf"):
        with pytest.raises(DamagedError):
            convert(source, tmp_path / name)
    assert os.listdir(tmp_path) == ["source"]


def test_the_target_must_be_known(tmp_path):
    np.savez(tmp_path / "source.npz", x=np.ones(1))
    for arguments, message in (
        ({"dst": "new"}, "does not tell which format"),
        ({"dst": "new.pt", "to": "onnx"}, "to must be one of"),
        ({"dst": "new.pt", "shard_size": 5}, "shard_size is for"),
        ({"dst": "new", "shard_size": "big"}, "shard_size must be a size"),
        ({"dst": "new.pt", "step_number": 5}, "step_number is for stores"),
        ({"dst": "new", "to": "model"}, "holds no model's structure"),
        ({"dst": "new", "to": "model", "dtype": "float16"}, "dtype cannot change a whole model"),
    ):
        with pytest.raises(UsageError, match=message):
            convert(tmp_path / "source.npz", tmp_path / arguments.pop("dst"), **arguments)


def test_names_that_a_format_cannot_hold(tmp_path):
    Checkpoint(a={"b": np.ones(1, np.float32)}).save(tmp_path / "source")
    for name, new in (
        ("x.npz", "../b"),
        ("x.h5", "a//b"),
        ("x.h5", "/".join("a" * 65)),
        ("x.gguf", "n" * 64),
    ):
        with pytest.raises(UsageError, match="leaf"):
            convert(tmp_path / "source", tmp_path / name, rename={"a/b": new})
    state = {"x": {"y": np.ones(1)}, "z": np.ones(1)}
    Checkpoint(s=state).save(tmp_path / "other")
    with pytest.raises(UsageError, match="would be the folder of"):
        convert(tmp_path / "other", tmp_path / "x.h5", rename={"s/z": "s/x"})


def test_the_longest_names_that_a_format_holds_come_back(tmp_path):
    Checkpoint(a=np.arange(3.0)).save(tmp_path / "source")
    for name, new in (
        ("x.npz", "n" * 2000),
        ("x.h5", "/".join("a" * 64)),
        ("x.safetensors", "n" * 2000),
        ("x.pt", "n" * 2000),
    ):
        convert(tmp_path / "source", tmp_path / name, rename={"a": new})
        with milepost.open(tmp_path / name) as snapshot:
            assert list(snapshot) == [new]
            assert np.array_equal(snapshot[new], np.arange(3.0))


def test_a_model_is_saved_again_with_what_was_said_of_it(tmp_path):
    source = tmp_path / "source.safetensors"
    model = torch.nn.Linear(3, 2)
    milepost.save_model(model, source, labels=["a", "b"], metadata={"mine": 1})
    report = convert(source, tmp_path / "new", to="model", shard_size="1 MB")
    loaded = milepost.load_model(tmp_path / "new")
    assert torch.equal(loaded.weight, model.weight)
    assert milepost.open(tmp_path / "new").facts()["labels"] == ["a", "b"]
    assert report.notes == ()
    report = convert(source, tmp_path / "new.pt")
    assert "structure is left out" in " ".join(report.notes)
    model.load_state_dict(torch.load(tmp_path / "new.pt", weights_only=True))


_LARGE = """
import resource, sys
from milepost.conversion import convert
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
to = "store" if sys.argv[2].endswith("store") else None
convert(sys.argv[1], sys.argv[2], dtype=sys.argv[3] or None, to=to)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def _zeros(path: Path, rows: int) -> Path:
    """A safetensors file of `rows` MiB of zeros, which take no room on the disk."""
    shape = [rows, 1 << 18]
    header = {"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, rows << 20]}}
    header["y"] = {"dtype": "U8", "shape": [3], "data_offsets": [rows << 20, (rows << 20) + 3]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.seek(rows << 20, os.SEEK_CUR)
        file.write(b"\1\2\3")
    return path


@pytest.mark.skipif(not hasattr(os, "pwrite"), reason="measures with getrusage")
@pytest.mark.parametrize("target", ["torch", "safetensors", "npz", "weights.h5", "gguf"])
def test_memory_does_not_grow_with_the_file(tmp_path, run_program, target):
    source = _zeros(tmp_path / "source.safetensors", 600)
    path = tmp_path / f"new.{_NAMES[target]}"
    if target == "gguf":  # which has no unsigned integers
        run_program(
            "import sys; from milepost.conversion import convert; "
            "convert(sys.argv[1], sys.argv[2], only=['x'])",
            str(source),
            "x.safetensors",
        )
        source = tmp_path / "x.safetensors"
    grown = run_program(_LARGE, str(source), str(path), "float16" if target == "gguf" else "")
    assert int(grown.stdout) < 200_000  # KB
    assert path.stat().st_size > 300 << 20


@pytest.mark.skipif(not hasattr(os, "pwrite"), reason="measures with getrusage")
@pytest.mark.parametrize("dtype", ["", "float64"])  # whose chunks are not those of the source
def test_nor_on_its_way_into_a_store(tmp_path, run_program, dtype):
    rows = 400 if not dtype else 200
    source = _zeros(tmp_path / "source.safetensors", rows)
    wanted = np.arange(rows << 18, dtype=np.float32).reshape(rows, 1 << 18)
    with source.open("r+b") as file:  # no two chunks alike
        file.seek(-(rows << 20) - 3, os.SEEK_END)
        wanted.tofile(file)
    grown = run_program(_LARGE, str(source), str(tmp_path / "store"), dtype)
    assert int(grown.stdout) < 200_000  # KB
    with milepost.open(tmp_path / "store").latest as snapshot:
        assert snapshot.spec("x").dtype == (dtype or "float32")
        assert np.array_equal(snapshot["x"][-3:], wanted[-3:])
        assert np.array_equal(snapshot["x"], wanted)
    assert milepost.verify(tmp_path / "store") == []


@pytest.mark.slow
@pytest.mark.parametrize("target", ["torch", "npz"])
def test_archives_of_more_than_4_gib(tmp_path, target):
    source = _zeros(tmp_path / "source.safetensors", 4200)
    path = tmp_path / f"new.{_NAMES[target]}"
    convert(source, path)
    found = torch.load(path, weights_only=True, mmap=True) if target == "torch" else np.load(path)
    assert found["y"].tolist() == [1, 2, 3]
    assert found["x"].shape == (4200, 1 << 18)
    with milepost.open(path) as snapshot:
        assert np.asarray(snapshot["y"]).tolist() == [1, 2, 3]
    path.unlink()


def test_sizes_of_shards_that_are_none(tmp_path):
    source = tmp_path / "m.npz"
    np.savez(source, a=np.ones(3))
    for size in ("-1", "0", "1e400GB", "9" * 400 + "G", "", "GB", "9" * 400):
        with pytest.raises(UsageError, match="shard_size must be"):
            convert(source, tmp_path / "shards", shard_size=size)
    assert not (tmp_path / "shards").exists()


def test_what_an_archive_holds_can_be_read_again(tmp_path):
    source = tmp_path / "m.npz"
    np.savez(source, a=np.ones(3))
    for name in ("\x1b[31m", "a\u202e", "../a", "/a", "a/./b"):
        with pytest.raises(UsageError, match="rename it"):
            convert(source, tmp_path / "o.npz", rename={"a": name})
    assert not (tmp_path / "o.npz").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_or_a_device_does_not_give_way(tmp_path):
    source = tmp_path / "m.npz"
    np.savez(source, a=np.ones(3))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe or a device"):
        convert(source, tmp_path / "pipe", to="npz", overwrite=True)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


FULL = """
import resource, signal, sys
from milepost.conversion import convert
from milepost.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    convert("m.npz", "o", to=sys.argv[1], overwrite=True)
except StorageError as error:
    print("full" if "is full" in str(error) else error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits on files")
@pytest.mark.parametrize("target", ["npz", "torch", "weights.h5", "gguf", "safetensors"])
def test_a_full_disk_leaves_what_was_there(tmp_path, target):
    np.savez(tmp_path / "m.npz", **{f"l{i}": np.ones(1 << 16) for i in range(8)})
    (tmp_path / "o").write_bytes(b"old")
    command = [sys.executable, "-c", FULL, target]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.stdout == "full\n", found.stderr
    assert sorted(os.listdir(tmp_path)) == ["m.npz", "o"]
    assert (tmp_path / "o").read_bytes() == b"old"
