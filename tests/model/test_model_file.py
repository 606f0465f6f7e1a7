"""Model files: damage, hostility, atomicity."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import milepost
from milepost import errors, load_model, sealed
from milepost.container import build_header, read_header
from milepost.model.save import save_model
from milepost.storage.faults import FaultyFileSystem, input_output_error
from milepost.storage.local import open_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    save_model(model, tmp_path / "model", metadata={"n": 1})
    return tmp_path / "model"


def content(path: Path) -> tuple:
    with milepost.open(path) as snapshot:
        if snapshot.description.format != "milepost model":
            raise errors.UnknownFormatError("as load_model would say")
        leaves = {name: snapshot[name][...].tobytes() for name in snapshot}
        return leaves, snapshot.document.structure, snapshot.metadata


def test_every_single_flipped_bit_is_detected_or_harmless(path: Path):
    intact = content(path)
    data = bytearray(path.read_bytes())
    known = (errors.DamagedError, errors.VersionError, errors.UnknownFormatError)
    for position in range(len(data)):
        for bit in range(8):
            data[position] ^= 1 << bit
            path.write_bytes(data)
            data[position] ^= 1 << bit
            try:
                assert content(path) == intact, (position, bit)
            except known:
                continue
            pytest.fail(f"byte {position}, bit {bit} was not noticed")  # nothing is just harmless
    path.write_bytes(data)
    assert content(path) == intact


def test_every_truncation_is_detected(path: Path):
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        # Of nine bytes or less nobody can say what they were the beginning of.
        error = errors.DamagedError if length > 9 or not length else errors.MilepostError
        with pytest.raises(error):
            content(path)
        assert path.stat().st_size == length


def test_verify_compares_the_digest(path: Path):
    assert milepost.verify(path) == []
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    [damage] = milepost.verify(path)
    assert damage.leaf in ("0.weight", "0.bias")
    assert str(path) in str(damage)
    with pytest.raises(errors.DamagedError, match=damage.leaf):
        load_model(path)


def test_what_is_no_model_file(tmp_path: Path):
    (tmp_path / "text").write_text("Dear reader, this is a letter, not a model.")
    (tmp_path / "empty").touch()
    save_file({"w": torch.ones(2)}, tmp_path / "plain")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "torch")
    for name, error in [
        ("nothing", errors.PathNotFoundError),
        ("text", errors.UnknownFormatError),
        ("torch", errors.UnknownFormatError),
        ("empty", errors.DamagedError),
        ("plain", errors.UnknownFormatError),
        (".", errors.UnknownFormatError),
    ]:
        with pytest.raises(error, match=str(tmp_path)):
            load_model(tmp_path / name)


def test_any_safetensors_file_can_be_opened(tmp_path: Path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "x", {"k": "v"})
    with milepost.open(tmp_path / "x") as snapshot:
        assert dict(snapshot.metadata) == {"k": "v"}
        assert snapshot["a"][1].tolist() == [3, 4, 5]
        assert str(snapshot.spec("b")) == "bfloat16[2]"
    assert milepost.verify(tmp_path / "x") == []


@pytest.mark.parametrize("failing", range(1, 7))
def test_a_failed_save_never_costs_the_model_before(path: Path, failing: int):
    before = path.read_bytes()
    filesystem = FaultyFileSystem(failing, input_output_error)
    with pytest.raises(errors.StorageError):
        save_model(nn.Linear(3, 3), path, filesystem=filesystem)
    whole = filesystem.calls[-1] == "sync_folder"
    assert (path.read_bytes() == before) is not whole
    assert os.listdir(path.parent) == ["model"]
    load_model(path)


def test_a_killed_save_never_costs_the_model_before(tmp_path: Path, run_program):
    program = """
        import sys
        from torch import nn
        from milepost.model.save import save_model
        from milepost.storage.faults import FaultyFileSystem, kill_process
        save_model(nn.Linear(2, 2), "model")
        save_model(nn.Linear(3, 3), "model", filesystem=FaultyFileSystem(4, kill_process))
        """
    run_program(program, status=-9)
    assert load_model(tmp_path / "model").in_features == 2
    assert len(os.listdir(tmp_path)) == 2
    save_model(nn.Linear(4, 4), tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"]


def rewrite(path: Path, change) -> None:
    """Change the document of a model file as an attacker would: with a digest that fits."""
    source = open_file(str(path))
    header = read_header(source)
    source.close()
    data = path.read_bytes()[len(header.raw) :]
    body = sealed.unseal("model", header.metadata["milepost"].encode(), "it")
    change(body)
    entries = [(n, e.code, e.shape, e.nbytes) for n, e in header.tensors.items()]
    new, _ = build_header(entries, {"milepost": sealed.seal("model", body).decode()})
    path.write_bytes(new + data)


def set_node(node):
    def change(body):
        body["structure"]["module"] = node

    return change


def linear(**arguments):
    return set_node({"class": "Linear", "arguments": arguments})


def inplace(value):
    return set_node({"class": "ReLU", "arguments": {"inplace": value}})


def weight(**fields):
    return lambda body: body["leaves"]["0.weight"].update(fields)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (set_node({"class": "Module", "arguments": {}}), errors.RestoreRefusedError),
        (set_node({"class": "os.system", "arguments": {"x": "y"}}), errors.UnknownClassError),
        (set_node({"class": "DataParallel", "arguments": {}}), errors.UnknownClassError),
        (set_node({"custom": "Popen", "arguments": {}}), errors.UnknownClassError),
        (set_node(["Linear"]), errors.DamagedError),
        (linear(in_features="x"), errors.UsageError),
        (linear(in_features=2), errors.UsageError),
        (linear(in_features=9, out_features=9), errors.RestoreRefusedError),
        (inplace({"function": "eval"}), errors.UsageError),
        (inplace({"dtype": "load"}), errors.DamagedError),
        (lambda body: body.update(framework="os"), errors.VersionError),
        (lambda body: body.update(framework="../evil"), errors.VersionError),
        (lambda body: body["leaves"].update(x={"tied": "nothing"}), errors.DamagedError),
        (weight(shape=[3, 3]), errors.DamagedError),
        (weight(dtype="float99"), errors.VersionError),
        (lambda body: body["leaves"].pop("0.bias"), errors.DamagedError),
        (lambda body: body.update(leaves=3), errors.DamagedError),
        (lambda body: body.pop("structure"), errors.DamagedError),
    ],
)
def test_hostile_documents_are_refused_with_an_error_of_ours(path: Path, change, error):
    rewrite(path, change)
    with pytest.raises(error):
        load_model(path)


def test_deep_nesting_is_refused(path: Path):
    data = path.read_bytes()
    deep = b"[" * 100_000
    header = b'{"__metadata__":{"milepost":"' + deep + b'"}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[-24:])
    with pytest.raises(errors.DamagedError):
        load_model(path)
    header = b'{"a":' + deep + b"}"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(errors.DamagedError, match="not valid JSON"):
        load_model(path)


def test_a_newer_format(path: Path, monkeypatch):
    seal = sealed.seal
    monkeypatch.setattr(sealed, "seal", lambda kind, body, version=1: seal(kind, body, 3))
    save_model(nn.Linear(2, 2), path)
    monkeypatch.undo()
    with pytest.raises(errors.VersionError, match="format version 3.*upgrade"):
        load_model(path)


def test_a_missing_framework_names_the_command(path: Path, run_program):
    finished = run_program(
        """
        import sys
        sys.modules["torch"] = None  # as if it were not installed
        import milepost
        try:
            milepost.load_model(sys.argv[1])
        except milepost.errors.MissingPackageError as error:
            print(error)
        """,
        str(path),
    )
    assert "pip install torch" in finished.stdout


def test_a_model_file_is_readable_without_its_framework(path: Path, run_program):
    finished = run_program(
        """
        import sys, milepost
        snapshot = milepost.open(sys.argv[1])
        print(list(snapshot), snapshot["0.weight"][0].shape, milepost.verify(sys.argv[1]))
        assert "torch" not in sys.modules
        """,
        str(path),
    )
    assert finished.stdout == "['0.weight', '0.bias'] (2,) []\n"


def test_nothing_about_the_machine_is_recorded(path: Path):
    written = path.read_bytes()
    for secret in (os.uname().nodename, str(path.parent), os.path.expanduser("~")):
        assert secret.encode() not in written
    assert json.dumps(os.uname().release).encode() not in written
