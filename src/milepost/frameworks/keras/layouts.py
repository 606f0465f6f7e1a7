"""In which order the axes of a variable lie in memory, on PyTorch.

Keras's `Orthogonal` initializer, and so every recurrent layer, leaves a matrix column by column
there. PyTorch multiplies such a matrix with other instructions, whose last digits differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from milepost.errors import DamagedError

Layouts = dict[str, list[int]]


def layouts(variables: Mapping[str, Any]) -> Layouts:
    """The axes of each variable that does not lie row by row, the outermost first."""
    if keras.backend.backend() != "torch":
        return {}
    return {
        name: sorted(range(len(variable.shape)), key=lambda axis: -variable._value.stride(axis))
        for name, variable in variables.items()
        if not variable._value.is_contiguous()
    }


def lay(variables: Mapping[str, Any], wanted: Mapping[str, list[int]]) -> None:
    """Let variables lie as `layouts` told.

    Raises:
        DamagedError: it told no order of a variable's axes.
    """
    if keras.backend.backend() != "torch":
        return
    for name, order in wanted.items():
        variable = variables.get(name)
        axes = range(len(variable.shape)) if variable is not None else ()
        if sorted(order) != list(axes):
            raise DamagedError(f"the structure gives {name} the order of axes {order!r:.80}")
        if variable is not None:
            back = [order.index(axis) for axis in axes]
            value = variable._value
            value.data = value.data.permute(order).contiguous().permute(back)
