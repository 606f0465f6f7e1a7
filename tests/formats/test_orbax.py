"""Orbax checkpoints, of both of its interfaces, with and without a database, of both Zarrs."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import milepost
from milepost.errors import DamagedError, UsageError
from milepost.testing import FormatTests

ocp = pytest.importorskip("orbax.checkpoint")
jax = pytest.importorskip("jax")
jnp = jax.numpy

pytestmark = pytest.mark.filterwarnings("ignore")


def tree():
    return {
        "params": {
            "dense": {
                "kernel": np.arange(35, dtype=np.float32).reshape(5, 7),
                "bias": jnp.arange(7, dtype=jnp.bfloat16),
            }
        },
        "small": jnp.array([-1, 3, -8, 7], jnp.int4),
        "eight": jnp.array([0.5, -2.0, 448.0], jnp.float8_e4m3fn),
        "list": [np.ones(2), np.zeros(3, bool)],
        "tuple": (np.arange(3, dtype=np.complex64), jnp.array(3.5)),
        "zeros": np.zeros((64, 64), np.float16),
        "a.b": {"c.d": np.arange(2, dtype=np.uint8)},
        "nothing": {},
        "no": [],
        "number": 4,
        "real": -2.5,
        "flag": True,
        "big": 2**40,
    }


def flat(restored):
    """What Orbax restored, as leaves by their names."""
    leaves = {}
    pairs, _ = jax.tree_util.tree_flatten_with_path(restored, is_leaf=lambda x: x is None)
    for keys, leaf in pairs:
        name = "/".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in keys)
        leaves[name] = np.asarray(leaf) if hasattr(leaf, "shape") else leaf
    return leaves


class OrbaxTests(FormatTests):
    executions = 100
    written = None

    def write(self, path):
        raise NotImplementedError

    def restore(self, path):
        return flat(ocp.PyTreeCheckpointer().restore(path))

    def make(self, folder):
        cls = type(self)
        if cls.written is None:
            # Orbax takes its time: it writes once, and each test gets a copy.
            root = folder / "first"
            self.write(root)
            cls.written = (
                {
                    str(file.relative_to(root)): file.read_bytes()
                    for file in root.rglob("*")
                    if file.is_file()
                },
                self.restore(root),
            )
            shutil.rmtree(root)
        files, expected = cls.written
        path = folder / "checkpoint"
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path, expected


class TestDatabaseOfZarr2(OrbaxTests):
    def write(self, path):
        ocp.PyTreeCheckpointer().save(path, {**tree(), "text": "hällo", "none": None})


class TestFoldersOfZarr2(OrbaxTests):
    def write(self, path):
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
        ocp.Checkpointer(handler).save(path, {**tree(), "text": "hello"})


class TestDatabaseOfZarr3(OrbaxTests):
    def write(self, path):
        ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_zarr3=True)).save(path, tree())


class TestFoldersOfZarr3(OrbaxTests):
    def write(self, path):
        handler = ocp.PyTreeCheckpointHandler(use_zarr3=True, use_ocdbt=False)
        ocp.Checkpointer(handler).save(path, tree())


class TestStandardCheckpointer(OrbaxTests):
    def write(self, path):
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, {**tree(), "step": np.int64(7)})

    def restore(self, path):
        return flat(ocp.StandardCheckpointer().restore(path))


class TestManyChunks(OrbaxTests):
    use_zarr3 = False

    def write(self, path):
        arguments = {"w": ocp.SaveArgs(chunk_byte_size=1024), "v": ocp.SaveArgs(chunk_byte_size=64)}
        w = np.random.default_rng(7).normal(size=(60, 70)).astype(np.float32)
        leaves = {"w": w, "v": np.arange(300).reshape(10, 3, 10)}
        handler = ocp.PyTreeCheckpointHandler(use_zarr3=self.use_zarr3)
        ocp.Checkpointer(handler).save(path, leaves, save_args=arguments)


class TestManyChunksInShards(TestManyChunks):
    written = None
    use_zarr3 = True


class TestNewInterface(OrbaxTests):
    def write(self, path):
        v1 = pytest.importorskip("orbax.checkpoint.experimental.v1")
        v1.save(path, {**tree(), "text": "hello", "none": None})

    def restore(self, path):
        from orbax.checkpoint.experimental import v1

        return flat(v1.load(path))


class TestStepOfSeveralItems(OrbaxTests):
    def write(self, path):
        items = ocp.args.Composite(
            state=ocp.args.StandardSave({"a": np.arange(4), "b": {"c": np.ones((2, 3))}}),
            meta=ocp.args.JsonSave({"lr": 0.1, "names": ["x", None], "deep": {"on": True}}),
        )
        with ocp.CheckpointManager(path.parent / "run", item_names=("state", "meta")) as manager:
            manager.save(7, args=items)
        shutil.move(path.parent / "run" / "7", path)

    def restore(self, path):
        return {
            "state/a": np.arange(4),
            "state/b/c": np.ones((2, 3)),
            "meta/lr": 0.1,
            "meta/names/0": "x",
            "meta/names/1": None,
            "meta/deep/on": True,
        }


@pytest.fixture
def run(tmp_path):
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        for step in (2, 10):
            manager.save(step, args=ocp.args.StandardSave({"a": np.full(3, step)}))
    return tmp_path / "run"


def test_a_run_of_several_steps_says_what_to_open(run):
    with pytest.raises(UsageError, match=r"2, 10.*/run/10"):
        milepost.open(run)


def test_a_step_and_its_only_item_have_the_same_names(run):
    for path in (run / "10", run / "10" / "default"):
        with milepost.open(path) as snapshot:
            assert list(snapshot) == ["a"]
            assert snapshot.read("a").tolist() == [10, 10, 10]


def test_several_processes_that_were_not_merged(tmp_path):
    path = tmp_path / "tree"
    ocp.PyTreeCheckpointer().save(path, {"w": np.arange(9.0), "n": 3})
    (path / "manifest.ocdbt").unlink()
    shutil.rmtree(path / "d")
    with milepost.open(path) as snapshot:
        assert snapshot.read("w").tolist() == list(range(9))
        assert snapshot.read("n") == 3


def test_an_old_tree_without_metadata(tmp_path):
    path = tmp_path / "tree"
    ocp.PyTreeCheckpointer().save(path, {"w": {"k": np.arange(9.0)}})
    (path / "_METADATA").unlink()
    with milepost.open(path) as snapshot:
        assert list(snapshot) == ["w.k"]
        assert snapshot.read("w.k").tolist() == list(range(9))


def test_a_chunk_that_is_gone_is_missed_and_not_made_of_zeros(tmp_path):
    path = tmp_path / "tree"
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
    ocp.Checkpointer(handler).save(path, {"w": np.arange(9.0)})
    (path / "w" / "0").unlink()
    with milepost.open(path) as snapshot, pytest.raises(DamagedError, match="missing"):
        snapshot.read("w")
    # Older versions of Orbax left zeros out, and do not say that they kept them.
    metadata = json.loads((path / "_METADATA").read_text())
    del metadata["store_array_data_equal_to_fill_value"]
    (path / "_METADATA").write_text(json.dumps(metadata))
    with milepost.open(path) as snapshot:
        assert snapshot.read("w").tolist() == [0] * 9


def test_opening_a_thousand_arrays_is_fast_and_reads_none(tmp_path, monkeypatch):
    path = tmp_path / "tree"
    leaves = {f"layer_{i}": np.full((8, 16), i, np.float32) for i in range(1000)}
    ocp.PyTreeCheckpointer().save(path, leaves)

    def never(*arguments):
        raise AssertionError("an array was read")

    monkeypatch.setattr("milepost.formats.zarr_array.decompress", never)
    with milepost.open(path) as snapshot:
        assert snapshot.spec("layer_999").shape == (8, 16)
