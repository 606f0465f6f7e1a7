"""Dataclasses of which a large state needs very many."""

from __future__ import annotations

import dataclasses
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def light(cls: type[T]) -> type[T]:
    """As `dataclass(frozen=True, slots=True)`, and made in a quarter of the time.

    What makes that slow is the guard against changes while the program runs. The type checker
    has the same guard, and costs nothing.
    """
    return dataclasses.dataclass(slots=True, unsafe_hash=True)(cls)
