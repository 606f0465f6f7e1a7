"""What the commands print with: lines, aligned columns, sizes, JSON."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

# Python refuses to write, or to read, an integer of more than 4300 digits.
_MOST_BITS = 14_000


def echo(text: str = "", *, err: bool = False) -> None:
    """Print one line, in which what a terminal would obey is escaped."""
    _write(printable(text), err)


def _write(text: str, err: bool = False) -> None:
    try:
        click.echo(text, err=err)
    except BrokenPipeError:
        # `milepost show ... | head`: the reader has seen enough. What follows goes nowhere,
        # and the exit status stays that of the command.
        stream = sys.stderr if err else sys.stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def printable(text: str) -> str:
    """A text from a file, with its control characters and lone surrogates as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def echo_json(document: Any) -> None:
    """Print a document as JSON that any parser reads: NaN and infinity become text."""
    _write(json.dumps(_plain(document), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return hex(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return value


def echo_columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print rows with aligned columns; those whose index is in `right` to the right."""
    if not rows:
        return
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        echo("  ".join(cells).rstrip())


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
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(_plain(value)) if isinstance(value, int) else str(value)


def human_plain(value: object) -> str:
    """A plain leaf's value, cut short."""
    return cut_short(human_value(value) if isinstance(value, int) else repr(value), 60)


def cut_short(text: str, most: int) -> str:
    """At most so many characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def bars(counts: Sequence[int]) -> str:
    """Counts as blocks of eight heights; only where there is nothing, there is none."""
    most = max(counts, default=0)
    return "".join(" " if not n else "▁▂▃▄▅▆▇█"[(8 * n - 1) // most] for n in counts)
