"""`milepost verify`: every byte against its digest."""

from __future__ import annotations

import sys

import click

from milepost.cli.output import echo_json, human_size


@click.command()
@click.argument("path")
@click.option("--step", help="Only this checkpoint of a store: a number, latest, best:METRIC.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(path: str, step: str | None, as_json: bool) -> None:
    """Read all of PATH and compare it with the digests it was saved with.

    PATH is a store, a model file, or any safetensors file; of a file that milepost did not
    write, only the structure can be checked. Exits with 0 if all is as it was saved, with 4
    if anything is damaged.

    \b
    Examples:
      milepost verify runs/digits
      milepost verify runs/digits --step 7
      milepost verify digits.safetensors && deploy digits.safetensors
    """
    import milepost

    wanted = int(step) if step and step.isdecimal() else step
    damage = milepost.verify(path, wanted)
    with_digests, summary = _summary(milepost.open(path), wanted)
    if as_json:
        found = [{"file": d.file, "leaf": d.leaf, "problem": d.problem} for d in damage]
        echo_json({"path": path, "intact": not damage, "digests": with_digests, "damage": found})
    else:
        for item in damage:
            click.echo(f"damaged: {item}", err=True)
        if not damage:
            click.echo(summary)
    if damage:
        sys.exit(milepost.errors.DamagedError.exit_status)


def _summary(opened: object, step: int | str | None) -> tuple[bool, str]:
    """Whether there were digests to compare with, and what to say if all is well."""
    from milepost.snapshot import Snapshot
    from milepost.store import Store

    if isinstance(opened, Store):
        steps = opened.steps if step is None else [opened.resolve(step)]
        return True, f"intact: {opened.name}, {len(steps)} checkpoint{'s' * (len(steps) != 1)}"
    assert isinstance(opened, Snapshot)
    with opened:
        if opened.description.format == "safetensors":
            return False, f"well-formed: {opened.name} has no digests to compare its data with"
        return True, f"intact: {opened.name}, {human_size(opened.nbytes)} in {len(opened)} leaves"
