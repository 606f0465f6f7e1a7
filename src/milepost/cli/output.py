"""What the commands print with: aligned columns, sizes, JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import click


def echo_json(document: Any) -> None:
    """Print a document as JSON that any parser reads: NaN and infinity become text."""
    click.echo(json.dumps(_finite(document), indent=2, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return value


def echo_columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print rows with aligned columns; those whose index is in `right` to the right."""
    if not rows:
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def human_size(nbytes: int) -> str:
    """`16.0 KB` for 16,000 bytes."""
    size = float(nbytes)
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{nbytes} B" if unit == "B" else f"{size:.1f} {unit}"


def human_value(value: object) -> str:
    """A metric's or metadata's value, short."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
