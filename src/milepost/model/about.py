"""What the caller tells of a model, for whoever opens the file: checked, and as JSON."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from milepost.errors import UsageError
from milepost.limits import is_writable, shown
from milepost.provenance import numbers


def about(
    *,
    labels: Iterable[str] | None = None,
    metrics: Mapping[str, Any] | None = None,
    step: int | None = None,
    license: str | None = None,
    notes: str | None = None,
) -> dict[str, Any]:
    """What was told, without what was not.

    Raises:
        UsageError: a value is of the wrong kind.
    """
    told: dict[str, Any] = {}
    if labels is not None:
        told["labels"] = _labels(labels)
    if metrics is not None:
        told["metrics"] = numbers(metrics)
    if step is not None:
        told["step"] = _step(step)
    for name, text in (("license", license), ("notes", notes)):
        if text is not None:
            told[name] = _text(name, text)
    return told


def _labels(labels: Iterable[str]) -> list[str]:
    if isinstance(labels, str | bytes | Mapping) or not isinstance(labels, Iterable):
        raise UsageError(
            f"labels must be a list of texts, in the order of the outputs: found {shown(labels)}"
        )
    return [_text("a label", str(label)) for label in labels]


def _step(step: int) -> int:
    try:
        return operator.index(step)
    except TypeError:
        raise UsageError(f"step must be a whole number: found {shown(step)}") from None


def _text(name: str, text: object) -> str:
    if not isinstance(text, str) or not is_writable(text):
        raise UsageError(f"{name} must be a text: found {shown(text)}")
    return text
