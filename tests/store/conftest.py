"""Small states, and ways to compare what comes back."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from milepost import record
from milepost.snapshot import Snapshot
from milepost.state import State


def make_state(seed: int, *, frozen: int = 0) -> State:
    """A state of a few leaves of every kind; `frozen` says which values the frozen leaf has."""
    draw = np.random.default_rng(seed)
    return State(
        {
            "model/blocks": draw.standard_normal((32, 32)),  # whole blocks of a disk
            "model/kernel": draw.standard_normal((40, 12)).astype(np.float32),
            "model/bias": draw.standard_normal(12).astype(ml_dtypes.bfloat16),
            "model/frozen": np.full((30, 10), frozen, np.float32),
            "model/empty": np.zeros((0, 4), np.float32),
            "model/scalar": np.array(seed, np.int64),
            "model/complex": np.array([1 + 2j, seed], np.complex128),
            "progress/epoch": seed,
            "progress/note": "épo\nque",
            "progress/loss": float("nan"),
            "progress/raw": b"\x00\xff",
        }
    )


def values(mapping: Any) -> dict[str, Any]:
    """Every leaf as something that compares exactly."""
    found = {}
    for name in mapping:
        leaf = mapping[name]
        if hasattr(leaf, "shape"):
            array = np.asarray(leaf)
            found[name] = (str(array.dtype), array.shape, array.tobytes())
        else:
            found[name] = repr(leaf)
    return found


def check(snapshot: Snapshot, state: State) -> None:
    """The snapshot is that state, to the last bit."""
    assert values(snapshot) == values(state.leaves)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut arrays into chunks of 256 bytes, so that small ones have several."""
    monkeypatch.setattr("milepost.pieces.CHUNK_BYTES", 256)
    assert record.CHUNK_BYTES > 256


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small state fills several buffers, and takes several writes."""
    monkeypatch.setattr("milepost.pieces.CHUNK_BYTES", 1024)
    monkeypatch.setattr("milepost.staging.SLOT_BYTES", 1024)
    monkeypatch.setattr("milepost.storage.direct.BUFFER_BYTES", 4096)
    monkeypatch.setattr("milepost.storage.direct.PART_BYTES", 4096)
