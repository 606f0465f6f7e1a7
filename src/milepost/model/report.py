"""What `save_model` returns: what the file has, what it has not, what loading will need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What `save_model` wrote, and how faithful it is.

    Attributes:
        path: the file, or the folder.
        framework: `"keras"`, `"torch"`, `"flax"`, ...
        leaves: how many leaves there are.
        nbytes: the size of all arrays together.
        needs: classes and functions that a program has to register or pass before it can load
            the file.
        seconds: how long it took, durable at the end.
        captured: what the file has, by kind: `"parameters"`, `"optimizer"`, `"example"`, ...
        lost: what the live model has and the file has not, a sentence each; empty if nothing.
        versions: the packages that wrote it, which are those to load it with.
    """

    path: str
    framework: str
    leaves: int
    nbytes: int
    needs: tuple[str, ...]
    seconds: float
    captured: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.leaves} leaves, {self.nbytes:,} bytes"]
        lines.append(f"  has    {', '.join(self.captured)}")
        lines += [f"  lacks  {sentence}" for sentence in self.lost]
        if self.needs:
            lines.append(f"  needs  {', '.join(self.needs)}, registered or in custom_objects")
        return "\n".join(lines)
