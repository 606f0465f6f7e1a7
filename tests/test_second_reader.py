"""A store read with the standard library, NumPy, and the code of docs/format.md alone."""

from __future__ import annotations

import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from milepost import Checkpoint, compact

PAGE = (Path(__file__).parents[1] / "docs" / "format.md").read_text()


@pytest.fixture
def reader() -> dict:
    [code] = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    imports = set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE))
    assert imports == {"base64", "json", "math", "os", "re", "numpy"}  # zstd, where it is needed
    namespace: dict = {}
    exec(compile(code, "docs/format.md", "exec"), namespace)
    return namespace


def test_it_reads_everything_that_milepost_writes(reader, tmp_path, monkeypatch):
    monkeypatch.setattr("milepost.pieces.CHUNK_BYTES", 200)  # several chunks a leaf
    draw = np.random.default_rng(0)
    tree = {
        "kernel": draw.standard_normal((30, 7)).astype(np.float32),
        "half": draw.standard_normal((9, 20)).astype(ml_dtypes.bfloat16),
        "int4": np.arange(-8, 8).astype(ml_dtypes.int4),
        "complex": np.array([1 + 2j, 3]),
        "long": np.arange(20, dtype=np.longdouble),
        "time": np.array(["2026-11-23", "NaT"], "datetime64[s]"),
        "scalar": np.array(5, np.int16),
        "empty": np.zeros((0, 3)),
        "plain": [None, True, 3, -(2**80), 0.1, float("-inf"), "é\ud800", b"\x00\xff"],
        3: {("a", 1): ((), {}), None: [True], False: {1, 2}},
    }
    checkpoint = Checkpoint(tree=tree, other=np.float16(0.5))
    checkpoint.save(tmp_path, step=1, metrics={"loss": float("nan")})
    tree["kernel"][0, 0] = 7
    checkpoint.save(tmp_path, step=12)  # most of it lies in the first pack
    assert reader["steps"](str(tmp_path)) == [1, 12]
    manifest, leaves = reader["read_checkpoint"](str(tmp_path), 12)
    assert len(manifest["packs"]) == 2
    found = reader["nest"](manifest["objects"]["tree"]["structure"], "tree", leaves)
    assert list(found) == list(tree)
    for name, expected in tree.items():
        if isinstance(expected, np.ndarray):
            assert found[name].tobytes() == expected.tobytes(), name
    assert found["kernel"].tolist() == tree["kernel"].tolist()
    assert found["time"].dtype == tree["time"].dtype
    assert found["complex"].tolist() == [1 + 2j, 3]
    assert found["plain"] == tree["plain"]
    assert found[3] == tree[3]
    assert leaves["other"].tolist() == 0.5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "int8", "complex64"])
def test_it_reads_compacted_steps(reader, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("milepost.pieces.CHUNK_BYTES", 1 << 19)
    start = np.random.default_rng(0).standard_normal((1000, 300)).astype(dtype)
    checkpoint, steps = Checkpoint(w=start), [start.copy()]
    checkpoint.save(tmp_path)
    for _ in range(4):
        start += (np.random.default_rng(1).standard_normal((1000, 300)) * 0.01).astype(dtype)
        start[5] += np.array(1, dtype)
        steps.append(start.copy())
        checkpoint.save(tmp_path)
    compact(tmp_path)
    kinds = set()
    for step, expected in enumerate(steps, 1):
        manifest, leaves = reader["read_checkpoint"](str(tmp_path), step)
        assert leaves["w"].tobytes() == expected.tobytes()
        for chunk in manifest["leaves"]["w"]["chunks"]:
            encoding = chunk.get("encoding", {})
            kinds.add((encoding.get("codec"), "base" in encoding))
    assert {("planes", True), (None, False)} <= kinds


def test_it_agrees_with_the_first_on_digests(reader, tmp_path):
    """And the digests of the page are those in the files."""
    import blake3
    import xxhash

    Checkpoint(a=np.arange(100.0)).save(tmp_path)
    manifest, _ = reader["read_checkpoint"](str(tmp_path), 1)
    [chunk] = manifest["leaves"]["a"]["chunks"]
    data = np.arange(100.0).tobytes()
    assert chunk["digest"] == "blake3:" + blake3.blake3(data).hexdigest()
    assert chunk["checksum"] == "xxh3:" + xxhash.xxh3_64(data).digest().hex()
    text = (tmp_path / "checkpoints" / f"{1:020d}.json").read_bytes()
    start = text.index(b'"manifest":') + len(b'"manifest":')
    claimed = text[len(b'{"digest":"blake3:') :][:64].decode()
    assert blake3.blake3(text[start:-1]).hexdigest() == claimed
    pack = (tmp_path / manifest["packs"][0]["name"]).read_bytes()
    header = pack[: 8 + int.from_bytes(pack[:8], "little")]
    assert manifest["packs"][0]["header"] == "blake3:" + blake3.blake3(header).hexdigest()
