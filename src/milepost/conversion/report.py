"""What a conversion did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        source: what was converted.
        path: where to.
        target: the name of the format: `"safetensors"`, `"torch"`, ...
        leaves: how many were written.
        nbytes: the size of all arrays among them together.
        files: the paths of what was written.
        seconds: how long it took, durable at the end.
        cast: how many arrays were cast; all others are as they were, to the last bit.
        overflowed: leaf -> how many finite numbers the cast made infinite, or NaN where the dtype
            has no infinity.
        vanished: leaf -> how many numbers other than zero the cast made zero.
        left_out: leaf -> why it was not written.
        notes: what else is not in the new file, or is another than one may think.
    """

    source: str
    path: str
    target: str
    leaves: int
    nbytes: int
    files: tuple[str, ...]
    seconds: float
    cast: int = 0
    overflowed: Mapping[str, int] = field(default_factory=dict)
    vanished: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
