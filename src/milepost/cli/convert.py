"""`milepost convert`: anything that milepost opens, in another format."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from milepost.cli.options import STEP, STEP_HELP, as_json
from milepost.cli.output import echo, echo_json, human_size

if TYPE_CHECKING:
    from milepost.conversion import ConversionReport

# What a terminal has room for.
_LINES = 20


@click.command()
@click.argument("src")
@click.argument("dst")
@click.option(
    "--to",
    help="safetensors, npz, torch, weights.h5, gguf, store or model. [by the extension of DST]",
)
@click.option("--dtype", help="Cast floating arrays, nothing else: float16, bfloat16, ...")
@click.option("--rename", multiple=True, metavar="OLD=NEW", help="Of leaves or subtrees, or globs.")
@click.option("--only", multiple=True, metavar="GLOB", help="Convert these leaves or subtrees.")
@click.option("--drop", multiple=True, metavar="GLOB", help="Leave out these leaves or subtrees.")
@click.option("--dequantise", is_flag=True, help="Quantised arrays as float32.")
@click.option("--shard-size", help="Write a folder of safetensors files of this size: 2GB, say.")
@click.option("--step", type=STEP, help=f"{STEP_HELP} [latest]")
@click.option("--step-number", type=click.IntRange(0), help="In the store DST. [the next]")
@click.option("--overwrite", is_flag=True, help="Replace DST, once the new one is whole.")
@as_json
def convert(
    *,
    src: str,
    dst: str,
    to: str | None,
    dtype: str | None,
    rename: tuple[str, ...],
    only: tuple[str, ...],
    drop: tuple[str, ...],
    dequantise: bool,
    shard_size: str | None,
    step: int | str | None,
    step_number: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write what is in SRC to DST, in another format.

    SRC is anything that `milepost show` shows. Nothing of it is run, no framework is needed, and
    it may be larger than memory. DST is a .safetensors, .npz, .pt, .weights.h5 or .gguf file, a
    folder of shards, or a store.

    \b
    Examples:
      milepost convert model.pth model.safetensors
      milepost convert model.keras model.npz --only 'layers/*' --dtype float16
      milepost convert model.gguf model.pt --dequantise
      milepost convert model.pt model.safetensors --rename 'layers.*.weight=blocks.{1}.w'
      milepost convert model.pt shards --shard-size 2GB
      milepost convert runs/digits best.pt --step best:val_accuracy
      milepost convert model.pt runs/digits --to store
    """
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress

    from milepost import conversion

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), DownloadColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("converting", total=None)
        report = conversion.convert(
            src,
            dst,
            to=to,
            dtype=dtype,
            rename=[_rule(text) for text in rename],
            only=only,
            drop=drop,
            dequantise=dequantise,
            shard_size=shard_size,
            step=step,
            step_number=step_number,
            overwrite=overwrite,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        echo_json(dataclasses.asdict(report))
    else:
        _print(report)


def _rule(text: str) -> tuple[str, str]:
    old, sign, new = text.partition("=")
    if not sign:
        raise click.UsageError(f"--rename takes OLD=NEW, found {text!r}")
    return old, new


def _print(report: ConversionReport) -> None:
    count = f"{report.leaves} leaves, {human_size(report.nbytes)}"
    files = f" in {len(report.files)} files" * (len(report.files) > 1)
    echo(f"{report.path}: {count}{files}, {report.target}")
    if report.cast:
        echo(f"cast: {report.cast} arrays")
    lines = [f"{name}: {n} numbers overflowed" for name, n in report.overflowed.items()]
    lines += [f"{name}: {n} numbers became zero" for name, n in report.vanished.items()]
    lines += [f"left out: {name}: {reason}" for name, reason in report.left_out.items()]
    for line in lines[:_LINES]:
        echo(line)
    if len(lines) > _LINES:
        echo(f"... and {len(lines) - _LINES} more: see --json")
    for note in report.notes:
        echo(f"note: {note}")
