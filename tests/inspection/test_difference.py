"""What `diff` finds, compared with NumPy's arithmetic."""

from __future__ import annotations

import math
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors.numpy import load_file, save_file

from milepost import Checkpoint, dtypes
from milepost.errors import DamagedError, PathNotFoundError, UsageError
from milepost.inspection import Difference, diff
from tests.inspection.snapshots import in_memory


def differ(a, b, *, digests=False, rename=None) -> Difference:
    left, right = (in_memory(leaves, digests=digests)[0] for leaves in (a, b))
    return diff(left, right, rename=rename)


def one(a: np.ndarray, b: np.ndarray):
    """The only leaf that differs."""
    [found] = differ({"x": a}, {"x": b}).changed
    return found


def test_identical():
    leaves = {"x": np.arange(5), "y": np.float32(3) * np.ones(()), "n": 3, "s": "a", "none": None}
    found = differ(leaves, dict(reversed(leaves.items())))
    assert found == Difference((), (), (), (), 5)
    assert found.is_identical
    assert found.worst == 0
    assert not found.exceeds(0)


def test_names():
    a = {"both": np.zeros(3), "old": np.ones(2), "n": 1}
    b = {"both": np.zeros(3), "new": np.ones(3)}
    found = differ(a, b)
    assert found == Difference(("old", "n"), ("new",), (), (), 1)
    assert found.exceeds(math.inf)
    assert not found.is_identical


def test_moves():
    weight, bias = np.arange(6.0), np.zeros(3)
    a = {"old/w": weight, "a/bias": bias, "b/scale": bias, "p/epoch": 3, "p/step": 3, "x": bias + 1}
    b = {"q/epoch": 3, "q/steps": 3, "new.w": weight, "scale": bias, "c.bias": bias, "y": bias + 2}
    for digests in (False, True):
        found = differ(a, b, digests=digests)
        assert set(found.moved) == {
            *(("old/w", "new.w"), ("a/bias", "c.bias"), ("b/scale", "scale")),
            ("p/epoch", "q/epoch"),
        }
        assert (found.only_a, found.only_b) == (("p/step", "x"), ("q/steps", "y"))
        assert found.exceeds(1)
    assert differ({"a": bias, "b": bias}, {"c": bias, "d": bias, "e": bias}) == Difference(
        (), ("e",), (("a", "c"), ("b", "d")), (), 0
    )


def test_moves_are_found_between_a_file_with_digests_and_one_without():
    array = np.random.default_rng(0).integers(0, 9, (3, 5 << 20))
    a, _ = in_memory({"a": array, "t": np.array([b"x", b"yz"], object)}, digests=True)
    b, _ = in_memory({"b": array, "u": np.array([b"x", b"yz"], object)})
    assert diff(a, b).moved == (("a", "b"), ("t", "u"))
    assert diff(b, a).moved == (("b", "a"), ("u", "t"))


def test_strings_that_only_together_are_the_same_have_not_moved():
    a = {"a": np.array([b"ab", b"c"], object)}
    assert not differ(a, {"b": np.array([b"a", b"bc"], object)}).moved


def test_only_candidates_are_read():
    a, read_a = in_memory({"old": np.zeros(9), "other": np.zeros(4)})
    b, read_b = in_memory({"new": np.zeros(9), "another": np.zeros(4, np.float32)})
    assert diff(a, b).moved == (("old", "new"),)
    assert (read_a.read, read_b.read) == (72, 72)


def test_equal_digests_need_no_reading():
    array = np.zeros(5 << 20)
    told: list[int] = []
    a, read_a = in_memory({"x": array, "old": array}, digests=True)
    b, read_b = in_memory({"x": array, "new": array}, digests=True)
    found = diff(a, b, progress=told.append)
    assert found == Difference((), (), (("old", "new"),), (), 1)
    assert (read_a.read, read_b.read) == (0, 0)
    assert sum(told) == 2 * array.nbytes


def test_rename():
    a = {"net.0.w": np.zeros(2), "net.1.w": np.ones(2), "e": 1}
    b = {"0.w": np.zeros(2), "body.w": np.ones(2) * 2, "e": 1}
    found = differ(a, b, rename={"net.0.w": "0.w", "net.1": "body"})
    assert [leaf.name for leaf in found.changed] == ["body.w"]
    assert (found.only_a, found.only_b, found.identical) == ((), (), 2)
    with pytest.raises(UsageError, match="nothing of that name"):
        differ(a, b, rename={"nothing": "x"})


def test_shapes_and_dtypes():
    found = differ(
        {"shape": np.zeros(3), "kind": 3, "dtype": np.float32([1, 2]), "text": "a"},
        {"shape": np.zeros((3, 1)), "kind": np.zeros(3), "dtype": np.float16([1, 2]), "text": b"a"},
    )
    kinds = {leaf.name: leaf.kind for leaf in found.changed}
    assert kinds == {"shape": "shape", "kind": "shape", "dtype": "dtype", "text": "dtype"}
    assert found.changed[-1].name == "dtype"
    assert found.changed[-1].distance.relative_l2 == found.worst == 0
    assert all(leaf.distance is None for leaf in found.changed[:-1])
    assert found.exceeds(1e9)


def test_how_far_a_cast_went():
    array = np.random.default_rng(0).normal(size=(700, 300)).astype(np.float32)
    for dtype in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.float64, np.int8):
        cast = array.astype(dtype)
        for left, right in ((array, cast), (cast, array)):
            found = one(left, right)
            assert found.kind == "dtype"
            check(found.distance, left, right)


def check(found, a: np.ndarray, b: np.ndarray) -> None:
    kind = np.complex128 if "c" in a.dtype.kind + b.dtype.kind else np.float64
    a, b = a.astype(kind).reshape(-1), b.astype(kind).reshape(-1)
    whole = np.linalg.norm(a)
    gap = np.linalg.norm(a - b)
    relative = 0 if gap == 0 else gap / whole if whole else math.inf
    assert found.relative_l2 == pytest.approx(relative, rel=1e-9)
    assert found.max_abs == np.abs(a - b).max(initial=0)
    assert found.differing == np.count_nonzero(a != b)
    product = whole * np.linalg.norm(b)
    if product == 0:
        assert math.isnan(found.cosine)
    else:
        assert found.cosine == pytest.approx(np.vdot(a, b).real / product, abs=1e-9)


@given(
    st.data(),
    st.sampled_from([np.float32, np.float16, np.int16, np.bool_, np.complex64, np.uint8]),
    npst.array_shapes(min_dims=0, max_dims=3, max_side=5),
)
def test_any_arrays(data, dtype, shape):
    kind = np.dtype(dtype).kind
    elements = None
    if kind in "fc":  # NumPy's own norm underflows for smaller ones
        elements = npst.from_dtype(
            np.dtype(dtype), allow_nan=False, allow_infinity=False, allow_subnormal=False
        )
    a, b = (data.draw(npst.arrays(dtype, shape, elements=elements)) for _ in range(2))
    found = differ({"x": a}, {"x": b})
    if a.tobytes() == b.tobytes():
        assert found.is_identical
    else:
        [leaf] = found.changed
        assert leaf.kind == ("bits" if np.array_equal(a, b) else "values")
        check(leaf.distance, a, b)


@pytest.mark.parametrize("name", sorted(dtypes._DTYPES))
def test_every_dtype(name):
    dtype = dtypes.numpy_dtype(name)
    a = np.zeros(5).astype(dtype)
    b = a.copy()
    b[2] = np.ones(1).astype(dtype)[0]
    if np.array_equal(a, b):
        b[2] = np.full(1, 2.0).astype(dtype)[0]  # a dtype without a zero
    assert differ({"x": a}, {"x": a.copy()}).is_identical
    assert one(a, b).distance.differing == 1


def test_large_integers_are_compared_exactly():
    found = one(np.array([2**63 - 1, -(2**63)]), np.array([2**63 - 2, -(2**63)]))
    assert (found.distance.max_abs, found.distance.differing) == (1, 1)
    found = one(np.array([2**63 - 1]), np.array([-(2**63)]))
    assert found.distance.max_abs == 2**64
    found = one(np.array([0, 2**64 - 1], np.uint64), np.array([0, 2**64 - 2], np.uint64))
    assert found.distance.max_abs == 1


def test_times():
    a = np.array(["2020-01-01T00:00:00.000000001", "NaT"], "datetime64[ns]")
    found = one(a, a + np.timedelta64(2, "ns"))
    assert (found.distance.max_abs, found.distance.differing) == (2, 1)
    assert one(a, a[::-1].copy()).distance.relative_l2 == math.inf
    found = one(a, a.astype("datetime64[s]"))
    assert (found.kind, found.distance) == ("dtype", None)


def test_strings():
    a, b = np.array([b"a", b"b", b"c"], object), np.array([b"a", b"", b"d"], object)
    assert differ({"x": a}, {"x": a.copy()}).is_identical
    found = one(a, b)
    assert (found.kind, found.distance.differing) == ("values", 2)
    assert found.relative_l2 == math.inf
    assert one(a, np.zeros(3)).distance is None


def test_nan_and_infinity():
    nan, inf = math.nan, math.inf
    a = np.array([1, nan, inf, -inf, 2])
    assert differ({"x": a}, {"x": a.copy()}).is_identical
    found = one(a, np.array([1, nan, inf, -inf, 3]))
    assert found.distance.relative_l2 == pytest.approx(1 / math.sqrt(5))
    assert (found.distance.max_abs, found.distance.differing) == (1, 1)
    for other in ([1, 5, inf, -inf, 2], [1, nan, 5, -inf, 2], [1, nan, inf, inf, 2]):
        found = one(a, np.array(other))
        assert found.distance.relative_l2 == found.distance.max_abs == inf
        assert found.distance.differing == 1
        assert found.distance.cosine == pytest.approx(1)
    assert one(np.float32([nan, 1]), np.float64([nan, 1])).distance.differing == 0


def test_only_bits():
    quiet = np.array([0x7FC00001, 0x7FC00000, 0], np.uint32).view(np.float32)
    other = np.array([0x7FC00000, 0x7FC00000, 1 << 31], np.uint32).view(np.float32)
    found = differ({"x": quiet}, {"x": other})
    assert found.changed[0].kind == "bits"
    assert found.worst == 0
    assert not found.is_identical
    assert not found.exceeds(0)


def test_huge_and_tiny_values():
    for scale in (1e300, 1e-300, 5e-324):
        found = one(np.array([scale, 0]), np.array([scale, scale]))
        assert found.distance.relative_l2 == pytest.approx(1)
    found = one(np.array([-1.7e308]), np.array([1.7e308]))
    assert found.relative_l2 == math.inf
    assert one(np.zeros(2), np.ones(2)).relative_l2 == math.inf


def test_plain_values():
    a = {"i": 1, "f": 0.0, "nan": math.nan, "s": "a", "t": 1, "big": 10**5000}
    b = {"i": 2, "f": -0.0, "nan": math.nan, "s": "b", "t": True, "big": 10**5000 + 1}
    found = differ(a, b)
    assert [leaf.name for leaf in found.changed] == ["i", "f", "s", "t", "big"]
    assert found.changed[0].values == (1, 2)
    assert found.identical == 1
    assert found.worst == 0
    assert found.exceeds(math.inf) is True


def test_worst_first():
    a = {name: np.ones(10) for name in "abcd"}
    b = {name: np.ones(10) + gap for name, gap in zip("abcd", (0.1, 0.3, 0, 0.2), strict=True)}
    found = differ(a, b)
    assert [leaf.name for leaf in found.changed] == ["b", "d", "a"]
    assert found.worst == pytest.approx(0.3)
    assert found.exceeds(0.29)
    assert not found.exceeds(0.31)


def test_memory_is_bounded_and_the_equal_beginning_counts():
    a = np.ones((320, 1 << 17), np.float32)
    b = a.copy()
    b[-1, -1] = 1 + a.size**0.5
    left, read = in_memory({"x": a})
    right, _ = in_memory({"x": b})
    told: list[int] = []
    tracemalloc.start()
    [leaf] = diff(left, right, progress=told.append).changed
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20
    assert sum(told) == a.nbytes + b.nbytes
    assert read.read <= 2 * a.nbytes
    assert leaf.distance.differing == 1
    assert leaf.distance.relative_l2 == pytest.approx(1)


def test_files_of_different_formats(tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    arrays = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    save_file(arrays, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", **arrays)
    Checkpoint(net=arrays, epoch=1).save(tmp_path / "store")
    assert load_file(tmp_path / "a.safetensors").keys() == arrays.keys()
    assert diff(tmp_path / "a.npz", tmp_path / "a.safetensors").is_identical
    found = diff(tmp_path / "store", tmp_path / "a.safetensors", rename={"net": "x"})
    assert found.only_a == ("epoch",)
    assert {old for old, _ in found.moved} == {f"net/{name}" for name in arrays}
    with pytest.raises(PathNotFoundError):
        diff(tmp_path / "nothing", tmp_path / "store")


def test_a_torch_file_and_the_safetensors_file_made_of_it(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    arrays = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    torch.save(net.state_dict(), tmp_path / "a.pt")
    save_file(arrays, tmp_path / "a.safetensors")
    assert diff(tmp_path / "a.pt", tmp_path / "a.safetensors").is_identical


def test_damage_is_an_error(tmp_path):
    Checkpoint(x=np.zeros(100)).save(tmp_path / "a")
    Checkpoint(x=np.ones(100)).save(tmp_path / "b")
    [pack] = (tmp_path / "b" / "data").iterdir()
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.write_bytes(data)
    with pytest.raises(DamagedError, match="'x'"):
        diff(tmp_path / "a", tmp_path / "b")
