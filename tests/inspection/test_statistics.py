"""Statistics of arrays, compared with NumPy's."""

from __future__ import annotations

import itertools
import math
import tracemalloc
import warnings

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from milepost import dtypes
from milepost.errors import LeafNotFoundError, UsageError
from milepost.inspection import LeafStatistics, leaf_statistics, matching
from milepost.inspection.histogram import Bins
from tests.inspection.snapshots import in_memory


def statistics(array: np.ndarray) -> LeafStatistics:
    snapshot, _ = in_memory({"x": array})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return leaf_statistics(snapshot, "x")


def compare(found: LeafStatistics, array: np.ndarray) -> None:
    """With NumPy, in float64 and with all values at once."""
    values = np.abs(array.astype(np.complex128)) if array.dtype.kind == "c" else array
    values = values.astype(np.float64).reshape(-1)
    finite = values[np.isfinite(values)]
    assert found.count == array.size
    assert found.nan == np.isnan(values).sum()
    assert found.infinite == np.isinf(values).sum()
    assert found.zeros == (values == 0).sum()
    if not finite.size:
        assert found.min is found.max is found.mean is found.std is found.histogram is None
        return
    assert found.min == finite.min()
    assert found.max == finite.max()
    scale = np.abs(finite).max()
    assert found.mean == pytest.approx(finite.mean(), rel=1e-12, abs=1e-12 * scale)
    assert found.std == pytest.approx(finite.std(), rel=1e-9, abs=1e-12 * scale)
    check_histogram(found, finite)


def check_histogram(found: LeafStatistics, finite: np.ndarray) -> None:
    edges, counts = found.histogram.edges, found.histogram.counts
    assert 1 <= len(counts) == len(edges) - 1 <= 16
    assert counts[0] > 0
    assert counts[-1] > 0
    # By the edges alone, which NumPy's own histogram would not take if the last were infinite.
    places = np.searchsorted(edges, finite, side="right") - 1
    assert np.bincount(places, minlength=len(counts)).tolist() == list(counts)
    widths = [b - a for a, b in itertools.pairwise(edges) if math.isfinite(b - a)]
    assert len(set(widths)) <= 1
    assert all(math.frexp(width)[0] == 0.5 for width in widths)


NUMBERS = [
    name for name in dtypes._DTYPES if not name.startswith(("x87", "float8_e8m0", "int1", "uint1"))
] + ["int16", "uint16"]


@pytest.mark.parametrize("name", sorted(set(NUMBERS)))
def test_every_dtype(name):
    """Random bits: all values that a dtype has, NaN and infinities among them."""
    dtype = dtypes.numpy_dtype(name)
    bits = np.random.default_rng(0).integers(0, 256, (1000, 3, dtype.itemsize), np.uint8)
    if name == "bool":
        bits %= 2
    if name in ("int2", "int4", "uint2", "uint4") or name.startswith(("float4", "float6")):
        bits %= 4
    array = bits.view(dtype)[..., 0]
    with np.errstate(all="ignore"):
        if name in ("float64", "complex128"):  # whose deviation is beyond float64
            array = array.astype(np.float32 if name == "float64" else np.complex64).astype(dtype)
        compare(statistics(array), array)


@given(
    npst.arrays(
        st.sampled_from([np.float32, np.float16, np.int8, np.bool_, np.complex64, np.uint32]),
        npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9),
    )
)
def test_any_array(array):
    with np.errstate(all="ignore"):
        compare(statistics(array), array)


@given(st.lists(st.floats(-1e150, 1e150), min_size=1, max_size=40), st.integers(1, 7))
def test_a_histogram_depends_on_the_values_only(values, size):
    array = np.array(values)
    bins, whole, other = Bins(), Bins(), Bins()
    whole.add(array, array.min(), array.max())
    for start in range(0, len(array), size):
        part = array[start : start + size]
        bins.add(part, part.min(), part.max())
    for part in array[::-1]:
        other.add(np.array([part]), part, part)
    assert bins.histogram() == whole.histogram() == other.histogram()
    assert sum(whole.histogram().counts) == len(values)


@pytest.mark.parametrize(
    "values",
    [
        [1.7e308, -1.7e308, 1e-320],
        [5e-324, -5e-324],
        [5e-324],
        [0.0],
        [-0.0, 0.0],
        [1e300, 1e300],
        [2.0**53 + 2, 2.0**53 + 4],
        [1 + 2**-52, 1.0],
        [0.1] * 1000,
        [8444249301319680.0, -2.225073858507203e-309],
    ],
)
def test_ranges_at_the_edge(values):
    found = statistics(np.array(values))
    assert (found.min, found.max) == (min(values), max(values))
    assert str(found.min) != "-0.0"
    check_histogram(found, np.array(values))


def test_deviations_of_huge_and_tiny_values():
    for scale in (1e-200, 1e200, 2.0**-1050):
        found = statistics(np.array([-scale, scale, scale, -scale]))
        assert found.mean == 0
        assert found.std == pytest.approx(scale)


def test_it_is_stable():
    """A large mean and a small deviation, over many blocks."""
    array = 1e9 + np.random.default_rng(0).normal(size=1_000_000)
    found = statistics(array)
    assert found.std == pytest.approx(array.std(), rel=1e-9)
    assert found.mean == pytest.approx(array.mean(), rel=1e-15)
    assert statistics(np.full(1_000_000, 3.0)).std == 0


def test_integers_are_exact():
    low, high = -(2**63), 2**63 - 1
    found = statistics(np.array([low, high, 0, 1]))
    assert (found.min, found.max, found.zeros) == (low, high, 1)
    found = statistics(np.array([2**64 - 1, 2**64 - 3], np.uint64))
    assert (found.min, found.max) == (2**64 - 3, 2**64 - 1)
    found = statistics(np.array([True, False, True]))
    assert (found.min, found.max, found.zeros) == (0, 1, 1)
    assert type(statistics(np.array([-8, 7], ml_dtypes.int4)).min) is int
    assert type(found.min) is int


def test_times():
    array = np.array(["2020-01-02", "NaT", "1969-12-31"], "datetime64[D]")
    assert statistics(array) == LeafStatistics(3, 0, 1, 0, "1969-12-31", "2020-01-02")
    found = statistics(np.array([5, 3], "timedelta64[s]"))
    assert (found.min, found.max) == ("3 seconds", "5 seconds")


def test_strings_are_counted():
    snapshot, _ = in_memory({"x": np.array([b"a", b"bc"], object)})
    assert leaf_statistics(snapshot, "x") == LeafStatistics(2)


def test_what_has_none():
    snapshot, _ = in_memory({"x": 3})
    with pytest.raises(UsageError, match="plain value"):
        leaf_statistics(snapshot, "x")
    with pytest.raises(LeafNotFoundError):
        leaf_statistics(snapshot, "y")


def test_each_byte_is_read_once_and_memory_is_bounded():
    array = np.random.default_rng(0).integers(0, 256, 100 << 20, np.uint8)
    array = array.view(ml_dtypes.float8_e4m3fn)
    snapshot, memory = in_memory({"x": array})
    told: list[int] = []
    tracemalloc.start()
    found = leaf_statistics(snapshot, "x", progress=told.append)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.count == 100 << 20
    assert sum(told) == memory.read == 100 << 20
    assert len(told) == 7
    assert peak < 60 << 20


def test_matching():
    names = ("a/b/c", "a/b.d", "a.b.weight", "a.bias", "params['w']", "x*")
    snapshot, _ = in_memory(dict.fromkeys(names, 0))
    assert matching(snapshot, "a/b") == ["a/b/c", "a/b.d"]
    assert matching(snapshot, "a/") == ["a/b/c", "a/b.d"]
    assert matching(snapshot, "a.b") == ["a.b.weight"]
    assert matching(snapshot, "a*") == ["a/b/c", "a/b.d", "a.b.weight", "a.bias"]
    assert matching(snapshot, "*.d") == ["a/b.d"]
    assert matching(snapshot, "params['w']") == ["params['w']"]
    assert matching(snapshot, "x*") == ["x*"]
    with pytest.raises(LeafNotFoundError, match="'a.bias'"):
        matching(snapshot, "a.bia")
