"""Safetensors files, beside what the safetensors library reads."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import load_file, save_file

from milepost.testing import FormatTests


class TestSafetensors(FormatTests):
    def make(self, folder):
        chance = np.random.default_rng(7)
        path = folder / "model.safetensors"
        tensors = {
            "layer/kernel": chance.normal(size=(5, 7)).astype(np.float32),
            "layer/bias": np.arange(7, dtype=np.float16),
            "steps": np.array(12, np.int64),
            "flags": np.array([True, False, True]),
            "empty": np.zeros((0, 4), np.float32),
        }
        save_file(tensors, path, {"format": "np"})
        return path, load_file(path)
