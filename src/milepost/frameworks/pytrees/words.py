"""Values that are neither plain nor arrays and still words of JAX: dtypes, precisions, specs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from milepost import dtypes
from milepost.errors import DamagedError

_SCALARS = """
    bool_ uint4 uint8 uint16 uint32 uint64 int4 int8 int16 int32 int64 float16 bfloat16 float32
    float64 complex64 complex128 float8_e4m3fn float8_e4m3fnuz float8_e4m3b11fnuz float8_e5m2
    float8_e5m2fnuz
"""
_JAX = {name: getattr(jnp, name) for name in _SCALARS.split() if hasattr(jnp, name)}
_NUMPY = {name: getattr(np, name) for name in _SCALARS.split() if hasattr(np, name)}
_PYTHON: dict[str, Any] = {"bool": bool, "int": int, "float": float, "complex": complex, "...": ...}
_KINDS: dict[str, dict[str, Any]] = {
    "jax": _JAX,
    "numpy": _NUMPY,
    "python": _PYTHON,
    "precision": {p.name: p for p in jax.lax.Precision},
    "algorithm": {p.name: p for p in getattr(jax.lax, "DotAlgorithmPreset", ())},
}


def encode(value: Any) -> dict[str, Any] | None:
    """A word as JSON; None if it is none."""
    if isinstance(value, np.dtype):
        return {"dtype": dtypes.dtype_name(value)}
    if type(value) is complex:
        return {"complex": [repr(value.real), repr(value.imag)]}
    for kind, known in _KINDS.items():
        for name, word in known.items():
            if word is value:
                return {kind: name}
    return None


def decode(kind: str, encoded: Any) -> Any:
    """The word that `encode` wrote; `DamagedError` if it is none."""
    if kind == "dtype":
        return dtypes.numpy_dtype(encoded)
    if kind == "complex":
        real, imaginary = encoded
        return complex(float(real), float(imaginary))
    if kind in _KINDS and encoded in _KINDS[kind]:
        return _KINDS[kind][encoded]
    raise DamagedError(f"the structure has a value of unknown kind: {kind!r:.40}: {encoded!r:.40}")
