"""A golden example: inputs of a model, and what it made of them when it was saved.

In the document of a model file it is JSON, its arrays' bytes in base64: so every tensor of the
file is the model's own, and `load_state_dict(load_file(path))` works.
"""

from __future__ import annotations

import base64
import binascii
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from milepost import dtypes, record, tree
from milepost.dtypes import Array
from milepost.errors import DamagedError, UsageError
from milepost.limits import is_shape
from milepost.state import Leaf, Plain, is_plain
from milepost.tree import Structure

# It lies in the file's header, which every reader of safetensors reads whole.
MAX_BYTES = 32 << 20
INPUTS, OUTPUTS = "inputs", "outputs"


@dataclass(frozen=True, slots=True)
class Example:
    """Inputs and outputs of a model.

    Attributes:
        inputs: how the leaves named `inputs` or `inputs/...` nest.
        outputs: the same of the outputs.
        leaves: name -> array or plain value.
        surroundings: on what, beside versions, the bits of the outputs depend.
        tolerance: elsewhere, the largest difference that is as it should be, as a share of
            the largest output. Where everything is the same, it is 0.
    """

    inputs: Structure
    outputs: Structure
    leaves: Mapping[str, Plain | Array]
    surroundings: Mapping[str, str]
    tolerance: float

    def arrays(self, kind: str) -> list[tuple[str, Plain | Array]]:
        """The leaves of the inputs, or of the outputs, by name, in order."""
        node = self.inputs if kind == INPUTS else self.outputs
        return [(name, self.leaves[name]) for name in tree.leaf_names(node, kind)]


def encode(example: Example) -> dict[str, Any]:
    """An example as JSON.

    Raises:
        UsageError: it is too large.
    """
    size = sum(np.asarray(leaf).nbytes for leaf in example.leaves.values())
    if size > MAX_BYTES:
        raise UsageError(
            f"the example and its outputs have {size:,} bytes, and a file's header has room for "
            f"{MAX_BYTES:,} of them: give fewer rows; two or three are enough"
        )
    return {
        "inputs": example.inputs,
        "outputs": example.outputs,
        "leaves": {name: _encode_leaf(leaf) for name, leaf in example.leaves.items()},
        "surroundings": dict(example.surroundings),
        "tolerance": example.tolerance,
    }


def decode(encoded: Mapping[str, Any]) -> Example:
    """The example that `encode` wrote.

    Raises:
        DamagedError: it is none.
    """
    try:
        example = Example(
            encoded["inputs"],
            encoded["outputs"],
            {name: _decode_leaf(item) for name, item in encoded["leaves"].items()},
            {str(k): str(v) for k, v in encoded["surroundings"].items()},
            float(encoded["tolerance"]),
        )
        for kind in (INPUTS, OUTPUTS):
            example.arrays(kind)
    except (KeyError, TypeError, AttributeError, ValueError, binascii.Error) as error:
        raise DamagedError(f"its example is none: {type(error).__name__}: {error}") from None
    return example


def _encode_leaf(leaf: Leaf) -> Any:
    if is_plain(leaf):
        return {"value": record.encode_plain(leaf)}
    stored = dtypes.to_stored(np.asarray(leaf))
    data = base64.b64encode(dtypes.byte_view(stored)).decode()
    return {"dtype": dtypes.dtype_name(stored.dtype), "shape": stored.shape, "data": data}


def _decode_leaf(item: Mapping[str, Any]) -> Plain | Array:
    if "value" in item:
        return record.decode_plain(item["value"])
    if not is_shape(item["shape"]):
        raise ValueError(f"{item['shape']!r:.80} is no shape")
    dtype = dtypes.numpy_dtype(item["dtype"])
    data = base64.b64decode(item["data"], validate=True)
    if len(data) != math.prod(item["shape"]) * dtype.itemsize:
        raise ValueError(f"{len(data)} bytes are no {item['dtype']}{item['shape']}")
    array = np.frombuffer(data, dtype).reshape(item["shape"])
    return array.byteswap() if sys.byteorder == "big" else array.copy()
