"""`milepost log`: the checkpoints of a store."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import click

import milepost
from milepost.cli.options import as_json
from milepost.cli.output import echo, echo_columns, echo_json, human_size, human_value


@click.command()
@click.argument("store")
@as_json
@click.option("-n", "count", type=click.IntRange(min=1), help="Only the newest N.")
def log(store: str, as_json: bool, count: int | None) -> None:
    """List the checkpoints of STORE, newest first: step, time, size, metrics.

    \b
    Examples:
      milepost log runs/digits
      milepost log runs/digits -n 5
      milepost log runs/digits --json
    """
    opened = milepost.open(store)
    if not isinstance(opened, milepost.Store):
        opened.close()
        raise milepost.errors.NotAStoreError(
            f"{opened.name} is a file, not a store of checkpoints: see `milepost show {store}`"
        )
    entries = list(itertools.islice(_entries(opened), count))
    if as_json:
        echo_json(entries)
    elif not entries:
        echo(f"{opened.name} has no checkpoint yet")
    else:
        rows = [["step", "created", "leaves", "size", "metrics"], *map(_row, entries)]
        echo_columns(rows, right=(0, 2, 3))


def _entries(store: milepost.Store) -> Iterator[dict[str, Any]]:
    for step in reversed(store):
        # One that another process has removed meanwhile is passed over.
        with contextlib.suppress(milepost.errors.StepNotFoundError), store[step] as checkpoint:
            yield {
                "step": step,
                "created": checkpoint.created,
                "leaves": len(checkpoint),
                "bytes": checkpoint.nbytes,
                "metrics": dict(checkpoint.metrics),
                "metadata": dict(checkpoint.metadata),
            }


def _row(entry: Mapping[str, Any]) -> list[str]:
    facts = {**entry["metadata"], **entry["metrics"]}
    shown = "  ".join(f"{name} {human_value(value)}" for name, value in facts.items())
    size = human_size(entry["bytes"])
    return [str(entry["step"]), entry["created"], str(entry["leaves"]), size, shown]
