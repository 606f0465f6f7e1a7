"""StableHLO, as `jax.export` serialises it, run by jax on its default device."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from milepost.dtypes import Array
from milepost.errors import DamagedError, MissingPackageError, UntrustedError, UsageError
from milepost.program import Program
from milepost.runtimes import Run

# A custom call may name anything that is registered in the process, and hand it addresses:
# these compute on their operands, and do nothing else.
_HARMLESS = re.compile(
    r"Sharding|shape_assertion|annotate_device_placement|mhlo\.(topk|erf)|lapack_\w+|"
    r"LuDecomposition|Qr|Eigh|ProductOfElementaryHouseholderReflectors|"
    r"stablehlo\.dynamic_(top_k|approx_top_k|reduce_window|rng_bit_generator)|ApproxTopK"
)
_CALL = re.compile(r'custom_call @"?([\w.$-]+)"?\(')


def load(program: Program, weights: Mapping[str, Array], name: str) -> Run:
    try:
        import jax
        import jax.export
    except ImportError as error:
        raise MissingPackageError(
            f"the program in {name} is StableHLO, which runs with jax, and that cannot be "
            f"imported ({error}): pip install jax"
        ) from error
    try:
        exported = jax.export.deserialize(bytearray(program.data))
        text = exported.mlir_module()
    except Exception as error:  # a reader of flat buffers fails in many ways
        raise DamagedError(
            f"{name} is damaged, or of another jax: its program is no StableHLO ({error})"
        ) from error
    check(text, name)
    call: Any = exported.call
    kept = [jax.numpy.asarray(array) for array in weights.values()]

    def run(inputs: Sequence[Array]) -> list[Array]:
        try:
            arguments: Any = jax.tree.unflatten(exported.in_tree, [*kept, *inputs])
            outputs = call(*arguments[0], **arguments[1])
        except Exception as error:
            raise UsageError(f"the program in {name} cannot take these inputs: {error}") from error
        return [np.asarray(out) for out in jax.tree.leaves(outputs)]

    return run


def check(text: str, name: str) -> None:
    """Make sure that a module calls nothing outside of StableHLO but what computes.

    Raises:
        UntrustedError: it does.
    """
    targets = _CALL.findall(text)
    if len(targets) != text.count("custom_call"):
        raise UntrustedError(f"the program in {name} has calls in a form that is not known")
    for target in targets:
        if not _HARMLESS.fullmatch(target):
            raise UntrustedError(
                f"the program in {name} calls {target!r:.60}: refused, because that may be any "
                "function of this process"
            )
