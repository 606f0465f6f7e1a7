"""What runs portable programs: onnxruntime, or jax for StableHLO. No framework's classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from milepost.dtypes import Array
from milepost.errors import VersionError
from milepost.program import Program

# The inputs in the program's order to the outputs in the program's order.
Run: TypeAlias = Callable[[Sequence[Array]], list[Array]]


def load(program: Program, weights: Mapping[str, Array], name: str) -> Run:
    """What runs a program, given its weights under the names that it has for them.

    Arguments:
        name: what messages call the file.

    Raises:
        MissingPackageError: the runtime is not installed.
        UntrustedError: the program asks for something beside its weights and inputs.
        DamagedError: it is no program.
        VersionError: it is of a kind that a later milepost writes.
    """
    if program.kind == "onnx":
        from milepost.runtimes import onnx

        return onnx.load(program, weights, name)
    if program.kind == "stablehlo":
        from milepost.runtimes import stablehlo

        return stablehlo.load(program, weights, name)
    raise VersionError(
        f"{name} holds a program of the kind {program.kind!r:.40}, which this milepost does not "
        "know: upgrade it"
    )
