"""Short training runs in miniature: states that change a little from step to step."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from milepost.state import State

ROWS, COLUMNS = 96, 64  # 24 KiB of float32: large enough to be worth encoding


def run_state(step: int, *, frozen: int = 0) -> State:
    """The state at a step. It can be made again, which is how what comes back is checked."""
    start, drift = np.random.default_rng(0), np.random.default_rng(1)
    weights = start.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    direction = drift.standard_normal((ROWS, COLUMNS)).astype(np.float32) * 1e-4
    now = weights + direction * np.float32(step)
    table = start.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    table[step % ROWS] += 1  # one row of many
    return State(
        {
            "model/weights": now,
            "model/half": now.astype(ml_dtypes.bfloat16),
            "model/table": table,
            "model/noise": np.random.default_rng(step).integers(0, 256, (ROWS, COLUMNS), np.uint8),
            "model/counts": np.arange(4096, dtype=np.int64) + step,
            "model/complex": (now[:32] + 1j * now[32:64]).astype(np.complex64),
            "model/small": np.full(7, step, np.float32),
            "model/empty": np.zeros((0, 4), np.float32),
            "model/frozen": np.full((ROWS, COLUMNS), frozen, np.float32),
            "model/same": now.copy(),  # equal to another leaf
            "progress/step": step,
            "progress/loss": float("nan"),
        }
    )
