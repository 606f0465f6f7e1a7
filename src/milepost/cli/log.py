"""`milepost log`: the checkpoints of a store."""

from __future__ import annotations

import click

from milepost.cli.output import echo_columns, echo_json, human_number, human_size


@click.command()
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, newest first.")
@click.option("-n", "count", type=click.IntRange(min=1), help="Only the newest N.")
def log(store: str, as_json: bool, count: int | None) -> None:
    """List the checkpoints of STORE, newest first: step, time, size, metrics.

    \b
    Examples:
      milepost log runs/digits
      milepost log runs/digits -n 5
      milepost log runs/digits --json
    """
    from milepost.opening import open_store

    opened = open_store(store)
    entries = []
    for step in reversed(opened.steps[-count:] if count else opened.steps):
        with opened[step] as checkpoint:
            entries.append(
                {
                    "step": step,
                    "created": checkpoint.created,
                    "leaves": len(checkpoint),
                    "bytes": checkpoint.nbytes,
                    "metrics": dict(checkpoint.metrics),
                    "metadata": dict(checkpoint.metadata),
                }
            )
    if as_json:
        echo_json(entries)
        return
    if not entries:
        click.echo(f"{opened.name} has no checkpoint yet")
        return
    rows = [["step", "created", "leaves", "size", "metrics"]]
    for entry in entries:
        metrics = entry["metrics"]
        assert isinstance(metrics, dict)
        shown = "  ".join(f"{name} {human_number(value)}" for name, value in metrics.items())
        size = human_size(int(str(entry["bytes"])))
        rows.append([str(entry["step"]), str(entry["created"]), str(entry["leaves"]), size, shown])
    echo_columns(rows, right=(0, 2, 3))
