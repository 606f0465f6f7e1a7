"""`milepost verify`: every byte against its digest."""

from __future__ import annotations

import sys
from typing import Any

import click

import milepost
from milepost.cli.options import STEP, STEP_HELP, as_json
from milepost.cli.output import echo, echo_json, human_size


@click.command()
@click.argument("path")
@click.option("--step", type=STEP, help=f"{STEP_HELP} [all]")
@click.option(
    "--replay",
    is_flag=True,
    help="Also load the model and predict on its example: to the last bit where framework, "
    "version and device are those that saved it, elsewhere within its tolerance.",
)
@click.option("--close", is_flag=True, help="With --replay: within its tolerance everywhere.")
@as_json
def verify(path: str, step: int | str | None, replay: bool, close: bool, as_json: bool) -> None:
    """Read all of PATH and compare it with the digests it was saved with.

    PATH is a store, a model file, or any safetensors file; of a file that milepost did not
    write, only the structure can be checked. Exits with 0 if all is as it was saved, with 4
    if anything is damaged, with 8 if a model predicts differently.

    \b
    Examples:
      milepost verify runs/digits
      milepost verify runs/digits --step 7
      milepost verify digits.safetensors --replay && deploy digits.safetensors
    """
    try:
        damage = milepost.verify(path, step)
    except milepost.errors.DamagedError as error:
        damage = [milepost.Damage(path, None, str(error))]
    if damage:
        _print_damage(path, damage, as_json)
        sys.exit(milepost.errors.DamagedError.exit_status)
    replayed = _replay(path, close) if replay else None
    if as_json:
        echo_json({"path": path, "intact": True, "damage": [], **_as_json(replayed)})
        return
    echo(_summary(milepost.open(path), step))
    if replayed:
        echo(f"predicts as when it was saved: {replayed}")


def _print_damage(path: str, damage: list[milepost.Damage], as_json: bool) -> None:
    if as_json:
        found = [{"file": item.file, "leaf": item.leaf, "problem": item.problem} for item in damage]
        echo_json({"path": path, "intact": False, "damage": found})
    else:
        for item in damage:
            echo(f"damaged: {item}", err=True)


def _replay(path: str, close: bool) -> milepost.Replay:
    """By the model itself; where that cannot be built here, by its program."""
    try:
        return milepost.replay(path, close=close)
    except (milepost.errors.UnknownClassError, milepost.errors.MissingPackageError) as error:
        try:
            return milepost.load_program(path).replay()
        except milepost.errors.UsageError:
            raise error from None


def _as_json(replayed: milepost.Replay | None) -> dict[str, Any]:
    if replayed is None:
        return {}
    found = {
        "difference": replayed.difference,
        "tolerance": replayed.tolerance,
        "reason": replayed.reason,
    }
    return {"replay": found}


def _summary(opened: milepost.Snapshot | milepost.Store, step: int | str | None) -> str:
    if isinstance(opened, milepost.Store):
        count = len(opened) if step is None else 1
        return f"intact: {opened.name}, {count} checkpoint{'s' * (count != 1)}"
    with opened:
        if opened.description.format == "safetensors":
            return f"well-formed: {opened.name}, which has no digests to compare its data with"
        return f"intact: {opened.name}, {human_size(opened.nbytes)} in {len(opened)} leaves"
