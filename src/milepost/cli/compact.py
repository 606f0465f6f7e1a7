"""`milepost compact`: a store takes less disk, and keeps every bit."""

from __future__ import annotations

import sys

import click

import milepost
from milepost.cli.options import as_json
from milepost.cli.output import echo, echo_json, human_size


@click.command()
@click.argument("store")
@click.option("--threads", type=click.IntRange(min=1), help="How many encode. [cores, up to 4]")
@as_json
def compact(store: str, threads: int | None, as_json: bool) -> None:
    """Encode the older checkpoints of STORE against their neighbours, losslessly.

    Every step stays, and comes back to the last bit. The newest is left as it is. Training may
    go on meanwhile, and if this is killed, nothing is lost: call it again.

    \b
    Examples:
      milepost compact runs/digits
      nice milepost compact runs/digits --threads 1
    """

    def told(step: int, left: int) -> None:
        if sys.stderr.isatty():
            echo(f"step {step}, {left} to go", err=True)

    report = milepost.compact(store, threads=threads, told=told)
    if as_json:
        echo_json(
            {
                "path": report.path,
                "steps": list(report.steps),
                "before": report.before,
                "after": report.after,
            }
        )
    elif not report.steps:
        echo(f"{report.path}: nothing to compact, {human_size(report.after)}")
    else:
        count = len(report.steps)
        echo(
            f"{report.path}: compacted {count} checkpoint{'s' * (count != 1)}, "
            f"{human_size(report.before)} before, {human_size(report.after)} after"
        )
