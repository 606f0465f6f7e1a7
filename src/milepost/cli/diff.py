"""`milepost diff`: in what two checkpoints, or files of any formats, differ."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

import milepost
from milepost.cli.opening import open_snapshot
from milepost.cli.options import STEP, STEP_HELP, as_json
from milepost.cli.output import echo, echo_columns, echo_json, human_plain, human_value
from milepost.cli.progress import reading

if TYPE_CHECKING:
    from milepost.inspection import Difference, LeafDifference
    from milepost.state import LeafSpec

# The exit status with --fail-above. No error: the two differ, that is all.
DIFFERENT = 9


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--step-a", type=STEP, help=f"{STEP_HELP} [latest]")
@click.option("--step-b", type=STEP, help="The same, of B. [latest]")
@click.option(
    "--rename", metavar="OLD=NEW", multiple=True, help="What a leaf or folder of A is in B."
)
@click.option("--dequantise", is_flag=True, help="What is stored in a quantised form as float32.")
@click.option(
    "--fail-above",
    "limit",
    type=float,
    metavar="X",
    help="Exit with 9 if names, shapes, dtypes or plain values differ, or an array's values by "
    "a relative L2 distance above X.",
)
@as_json
def diff(
    *,
    a: str,
    b: str,
    step_a: int | str | None,
    step_b: int | str | None,
    rename: Sequence[str],
    dequantise: bool,
    limit: float | None,
    as_json: bool,
) -> None:
    """Compare B with A, leaf by leaf: names, shapes, dtypes, values.

    A and B are stores, or files of any format that milepost reads. Both are read part after
    part; arrays whose recorded digests are equal are not read at all. Distances are relative
    to A, and the worst come first.

    \b
    Examples:
      milepost diff model.pt model.safetensors
      milepost diff runs/digits runs/digits --step-a 1 --step-b best:loss
      milepost diff old.safetensors new.safetensors --rename encoder=backbone
      milepost diff float32.safetensors bfloat16.safetensors --json
      milepost diff runs/a runs/b --fail-above 1e-6 && echo reproduced
    """
    from milepost import inspection

    if limit is not None and not limit >= 0:
        raise click.UsageError(f"--fail-above takes a number from 0 on, found {limit}")
    renames = dict(map(_rename, rename))
    with (
        open_snapshot(a, step_a, "--step-a") as opened_a,
        open_snapshot(b, step_b, "--step-b") as opened_b,
    ):
        left = opened_a.dequantised() if dequantise else opened_a
        right = opened_b.dequantised() if dequantise else opened_b
        with reading(left.nbytes + right.nbytes) as progress:
            found = inspection.diff(left, right, rename=renames, progress=progress)
        if as_json:
            echo_json({"a": left.name, "b": right.name, **_as_json(found, left, right)})
        else:
            echo(f"A: {left.name}")
            echo(f"B: {right.name}")
            _print(found, left, right)
    if limit is not None and found.exceeds(limit):
        sys.exit(DIFFERENT)


def _rename(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not old or not equals:
        raise click.UsageError(f"--rename takes OLD=NEW, found {text!r}")
    return old, new


def _as_json(
    found: Difference, left: milepost.Snapshot, right: milepost.Snapshot
) -> dict[str, Any]:
    return {
        "identical": found.is_identical,
        "identical_leaves": found.identical,
        "worst": found.worst,
        "only_a": {name: _described(left.spec(name)) for name in found.only_a},
        "only_b": {name: _described(right.spec(name)) for name in found.only_b},
        "moved": [{"a": old, "b": new, **_described(left.spec(old))} for old, new in found.moved],
        "changed": [_change(leaf) for leaf in found.changed],
    }


def _described(spec: LeafSpec) -> dict[str, Any]:
    """As `milepost show` has it."""
    if spec.shape is None:
        return {"type": spec.dtype}
    return {"dtype": spec.dtype, "shape": spec.shape}


def _change(leaf: LeafDifference) -> dict[str, Any]:
    before, after = _described(leaf.before), _described(leaf.after)
    found: dict[str, Any] = {"name": leaf.name, "kind": leaf.kind, "a": before, "b": after}
    if leaf.values is not None:
        before["value"], after["value"] = leaf.values
    if leaf.distance is not None:
        found |= dataclasses.asdict(leaf.distance)
    return found


def _print(found: Difference, left: milepost.Snapshot, right: milepost.Snapshot) -> None:
    only_a = [[name, str(left.spec(name))] for name in found.only_a]
    only_b = [[name, str(right.spec(name))] for name in found.only_b]
    moved = [[old, "->", new, str(left.spec(old))] for old, new in found.moved]
    _section("only in A", only_a)
    _section("only in B", only_b)
    _section("moved, the same otherwise", moved)
    values = [leaf for leaf in found.changed if leaf.distance is not None]
    other = [leaf for leaf in found.changed if leaf.distance is None]
    _section("changed", [_row(leaf) for leaf in other])
    header = ["", "", "relative L2", "max abs", "cosine", "differing"]
    _section("changed, worst first", [_row(leaf) for leaf in values], header, right=(2, 3, 4, 5))
    echo()
    count = f"{found.identical} {'leaf' if found.identical == 1 else 'leaves'}"
    echo(f"identical: {count}{', all there are' if found.is_identical else ''}")


def _section(
    title: str, rows: list[list[str]], header: list[str] | None = None, right: Sequence[int] = ()
) -> None:
    if rows:
        echo()
        echo(f"{title}: {len(rows)}")
        table = rows if header is None else [header, *rows]
        echo_columns([["  " + first, *rest] for first, *rest in table], right)


def _row(leaf: LeafDifference) -> list[str]:
    before, after = str(leaf.before), str(leaf.after)
    if leaf.values is not None:
        before, after = (
            f"{spec.dtype} {human_plain(value)}"
            for spec, value in zip((leaf.before, leaf.after), leaf.values, strict=True)
        )
    change = before if before == after else f"{before} -> {after}"
    if leaf.distance is None:
        return [leaf.name, change]
    found = leaf.distance
    cosine = "" if math.isnan(found.cosine) else f"{found.cosine:.6f}"
    differing = f"{found.differing} of {math.prod(leaf.before.shape or ())}"
    if leaf.kind == "bits":
        differing = "only bits: 0.0 and -0.0, or NaN"
    return [
        *(leaf.name, change, human_value(found.relative_l2)),
        *(human_value(found.max_abs), cosine, differing),
    ]
