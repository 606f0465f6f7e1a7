"""`milepost verify`: every byte against its digest."""

from __future__ import annotations

import sys

import click

import milepost
from milepost.cli.options import STEP, STEP_HELP, as_json
from milepost.cli.output import echo, echo_json, human_size


@click.command()
@click.argument("path")
@click.option("--step", type=STEP, help=f"{STEP_HELP} [all]")
@as_json
def verify(path: str, step: int | str | None, as_json: bool) -> None:
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
    try:
        damage = milepost.verify(path, step)
    except milepost.errors.DamagedError as error:
        damage = [milepost.Damage(path, None, str(error))]
    if as_json:
        found = [{"file": item.file, "leaf": item.leaf, "problem": item.problem} for item in damage]
        echo_json({"path": path, "intact": not damage, "damage": found})
    elif damage:
        for item in damage:
            echo(f"damaged: {item}", err=True)
    else:
        echo(_summary(milepost.open(path), step))
    if damage:
        sys.exit(milepost.errors.DamagedError.exit_status)


def _summary(opened: milepost.Snapshot | milepost.Store, step: int | str | None) -> str:
    if isinstance(opened, milepost.Store):
        count = len(opened) if step is None else 1
        return f"intact: {opened.name}, {count} checkpoint{'s' * (count != 1)}"
    with opened:
        if opened.description.format == "safetensors":
            return f"well-formed: {opened.name}, which has no digests to compare its data with"
        return f"intact: {opened.name}, {human_size(opened.nbytes)} in {len(opened)} leaves"
