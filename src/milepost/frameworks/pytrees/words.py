"""Values that are neither plain nor arrays: dtypes, precisions, scalars of NumPy, ranges.

{"dtype": "float32"}, {"jax": "bfloat16"}, {"numpy": ...}, {"python": "int"}
{"precision": "HIGHEST"}, {"algorithm": "BF16_BF16_F32"}
{"complex": ["0.0", "1.0"]}
{"scalar": ["float64", "000000000000f03f"]}          its bytes, as hexadecimal digits
{"range": [0, 3, 1]}, {"slice": [null, 3, null]}
"""

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
    if isinstance(value, np.generic):
        return {"scalar": [dtypes.dtype_name(value.dtype), value.tobytes().hex()]}
    if type(value) in (range, slice):
        ends = [value.start, value.stop, value.step]
        return {type(value).__name__: ends} if all(map(_is_end, ends)) else None
    if type(value) is complex:
        return {"complex": [repr(value.real), repr(value.imag)]}
    for kind, known in _KINDS.items():
        for name, word in known.items():
            if word is value:
                return {kind: name}
    return None


def _is_end(end: Any) -> bool:
    return end is None or (type(end) is int and abs(end) < 1 << 53)


def decode(kind: str, encoded: Any) -> Any:
    """The word that `encode` wrote; `DamagedError` if it is none."""
    if kind == "dtype":
        return dtypes.numpy_dtype(encoded)
    if kind == "complex":
        real, imaginary = encoded
        return complex(float(real), float(imaginary))
    if kind == "scalar":
        dtype, digits = encoded
        [scalar] = np.frombuffer(bytes.fromhex(digits), dtypes.numpy_dtype(dtype))
        return scalar
    if kind in ("range", "slice") and len(encoded) == 3 and all(map(_is_end, encoded)):
        return range(*encoded) if kind == "range" else slice(*encoded)
    if kind in _KINDS and encoded in _KINDS[kind]:
        return _KINDS[kind][encoded]
    raise DamagedError(f"the structure has a value of unknown kind: {kind!r:.40}: {encoded!r:.40}")
